"""The four matrix products of a chunk.

Products of bf16 inputs are accumulated and returned in float32 (float64 inputs stay float64).
Shapes: C tokens of a chunk, H hidden, V the rows of this rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

# rows of a bf16 head turned to float32 at a time on a CPU, which has no bf16 x bf16 -> float32
# product
UPCAST_ROWS = 4096


def compute_dtype(weight: Tensor) -> torch.dtype:
    """float64 for float64 weights (gradient checks), else float32."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def project(out: Tensor, hidden: Tensor, weight: Tensor, *, factor: float, add: bool) -> None:
    """out [C, V] = (out if add else 0) + factor * hidden [C, H] @ weight [V, H].T."""
    beta = 1.0 if add else 0.0
    hidden = hidden.to(weight.dtype)
    if weight.dtype == out.dtype and not add:
        torch.mm(hidden, weight.t(), out=out)
        if factor != 1.0:  # not inside the product: equal logits must stay equal
            out.mul_(factor)
    elif weight.dtype == out.dtype:
        torch.addmm(out, hidden, weight.t(), beta=beta, alpha=factor, out=out)
    elif weight.is_cuda and not add and factor == 1.0:
        torch.mm(hidden, weight.t(), out_dtype=out.dtype, out=out)
    elif weight.is_cuda:
        product = torch.mm(hidden, weight.t(), out_dtype=out.dtype)
        torch.add(product.mul_(factor), out, alpha=beta, out=out) if add else torch.mul(
            product, factor, out=out
        )
    else:
        wide = hidden.to(out.dtype)
        for start in range(0, weight.shape[0], UPCAST_ROWS):
            block = weight[start : start + UPCAST_ROWS].to(out.dtype)
            part = out[:, start : start + UPCAST_ROWS]
            torch.addmm(part, wide, block.t(), beta=beta, alpha=factor, out=part)


def hidden_grad(out: Tensor, logit_grad: Tensor, weight: Tensor) -> None:
    """out [C, H] = logit_grad [C, V] @ weight [V, H]; the operands in the weight's dtype,
    accumulated in float32 or more.
    """
    if weight.shape[0] == 0:
        out.zero_()
    else:
        torch.mm(logit_grad.to(weight.dtype), weight, out=out)


def accumulate_weight_grad(
    total: Tensor, logit_grad: Tensor, hidden: Tensor, factor: float
) -> None:
    """total [V, H] += factor * logit_grad [C, V].T @ hidden [C, H], in total's dtype."""
    if total.is_cuda and hidden.dtype != total.dtype:
        # In the product's own accumulator: no [V, H] of partial sums is written and read again.
        torch.addmm(
            total,
            logit_grad.to(hidden.dtype).t(),
            hidden,
            alpha=factor,
            out_dtype=total.dtype,
            out=total,
        )
    else:
        # A CPU multiplies in total's dtype, float32 for bf16 models: no partial sum is rounded.
        total.addmm_(logit_grad.to(total.dtype).t(), hidden.to(total.dtype), alpha=factor)
