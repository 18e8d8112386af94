"""RMSNorm for Megatron's local layer spec.

The torch norm of megatron-core 0.16.1 refuses sequence parallelism.
"""

from __future__ import annotations

from typing import Any

import torch


class RMSNorm(torch.nn.Module):
    """y = weight * x / sqrt(mean(x^2) + eps).

    Statistics in fp32, the product with the weight in the dtype of x, as transformers does it.

    Under sequence parallelism each rank normalises its own tokens, so the weight's gradient is a
    partial sum: the attribute `sequence_parallel` on the parameter makes Megatron's
    finalize_model_grads all-reduce it over the tensor-parallel group.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-6, **_: Any) -> None:
        """
        Args:
            config: Megatron's TransformerConfig: params_dtype and sequence_parallel are read.
            hidden_size: Width of the last dimension.
            eps: Added to the mean of squares.
        """
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden_size] -> the same shape and dtype."""
        out: torch.Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return out


class _RMSNorm(torch.autograd.Function):
    """Keeps the input alone. With n = x / rms and g = grad * weight, the gradient of x is
    (g - n mean(g n)) / rms.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        inverse = (torch.linalg.vecdot(wide, wide) / x.shape[-1] + eps).rsqrt_()[..., None]
        ctx.save_for_backward(x, weight, inverse)
        return weight * (wide * inverse).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # type: ignore[override]
        x, weight, inverse = ctx.saved_tensors
        normed, wide = x.float() * inverse, grad.float()
        grad_weight = (wide * normed).flatten(end_dim=-2).sum(0).to(weight.dtype)
        through = wide * weight.float()
        mean = torch.linalg.vecdot(through, normed)[..., None] / x.shape[-1]
        grad_x = through.addcmul_(normed, mean, value=-1.0).mul_(inverse)
        return grad_x.to(x.dtype), grad_weight, None


class AcrossHeadsRMSNorm(torch.nn.Module):
    """`RMSNorm` over the whole width of queries or keys: all heads together, of all tensor-parallel
    ranks.

    The weight is cut like the heads, so it is a shard on each rank.
    """

    def __init__(self, config: Any, num_heads: int, eps: float = 1e-6, **_: Any) -> None:
        """
        Args:
            config: Megatron's TransformerConfig: kv_channels, params_dtype and
                tensor_model_parallel_size are read.
            num_heads: Of all ranks.
            eps: Added to the mean of squares.
        """
        super().__init__()
        self.eps, self.width = eps, num_heads * config.kv_channels
        own = self.width // config.tensor_model_parallel_size
        self.weight = torch.nn.Parameter(torch.ones(own, dtype=config.params_dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., heads of this rank, head width] -> the same shape and dtype."""
        wide = x.float()
        squares = _SumOverTensorRanks.apply(wide.square().sum((-2, -1), keepdim=True))  # type: ignore[no-untyped-call]
        normed = (wide * (squares / self.width + self.eps).rsqrt()).to(x.dtype)
        return normed * self.weight.view(x.shape[-2:])

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """For checkpoints that another layout can load."""
        from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

        state = self.state_dict(prefix="", keep_vars=True)
        sharded: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            state, prefix, {"weight": 0}, sharded_offsets
        )
        return sharded


class _SumOverTensorRanks(torch.autograd.Function):
    """Every rank's outputs depend on the sum, so its gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return _summed(grad)


def _summed(x: torch.Tensor) -> torch.Tensor:
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1:
        return x
    total = x.contiguous().clone()
    torch.distributed.all_reduce(total, group=group)
    return total
