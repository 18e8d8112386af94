"""Which implementation of the passes a head's logits go through."""

from __future__ import annotations

import torch
from torch import Tensor

from sdpo_megatron.objectives.fused.passes import Passes, TorchPasses


def passes_for(weight: Tensor, *, complete: bool) -> Passes:
    """Triton's on CUDA (bf16 and float32 heads, a support that is not the whole vocabulary), else
    the reference.
    """
    if weight.is_cuda and weight.dtype != torch.float64 and not complete:
        from sdpo_megatron.objectives.fused.kernels import TritonPasses

        return TritonPasses(weight.dtype)
    return TorchPasses()
