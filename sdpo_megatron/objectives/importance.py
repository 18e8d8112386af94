"""Importance weights: between a batch's optimiser steps, and between training and inference engine.

Both are detached factors of the per-token loss (method section 1, "Weights and masks").
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0  # exp(20) = 4.9e8: far above every cap, far below the end of float32


def ratio(log_numerator: Tensor, log_denominator: Tensor) -> Tensor:
    """exp(clamp(numerator - denominator, -20, 20)), [C]."""
    return (log_numerator - log_denominator).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def truncated(weight: Tensor, cap: float | None) -> Tensor:
    """min(weight, cap), detached; 1 where the cap is None."""
    return torch.ones_like(weight) if cap is None else weight.detach().clamp(max=cap)
