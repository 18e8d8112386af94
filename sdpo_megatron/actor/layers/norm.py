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
