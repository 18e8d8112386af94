"""SwiGLU for Megatron's local layer spec: one tensor forward, one backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def swiglu(both: torch.Tensor) -> torch.Tensor:
    """[..., 2 F], gate and linear part side by side -> silu(gate) * linear, [..., F].

    Megatron's unfused form (mlp.py, megatron-core 0.16.1) also adds an offset, which is 0 here, and
    joins the two gradients in a copy.
    """
    out: torch.Tensor = _SwiGLU.apply(both)  # type: ignore[no-untyped-call]
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(both)
        gate, linear = both.chunk(2, dim=-1)
        return F.silu(gate).mul_(linear)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (both,) = ctx.saved_tensors
        gate, linear = both.chunk(2, dim=-1)
        out = torch.empty_like(both)
        of_gate, of_linear = out.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=of_linear)
        torch.ops.aten.silu_backward.grad_input(grad * linear, gate, grad_input=of_gate)
        return out
