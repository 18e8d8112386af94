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
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(x.dtype)
