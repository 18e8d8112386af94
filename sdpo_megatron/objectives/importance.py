"""Importance weights: between a batch's optimiser steps, and between training and inference engine.

Both are detached factors of the per-token loss (method section 1, "Weights and masks").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdpo_megatron.errors import ConfigError

LOG_RATIO_BOUND = 20.0  # exp(20) = 4.9e8: far above every cap, far below the end of float32


@dataclass(frozen=True, kw_only=True)
class ImportanceConfig:
    """How far importance weights may go.

    Attributes:
        is_clip: Cap of pi_now / pi_old on the distillation loss; None leaves it out. 1 step per
            batch makes it 1 anyway.
        mismatch_cap: Cap of pi_train / pi_rollout on every loss (truncated importance sampling);
            None leaves it out.
    """

    is_clip: float | None = 2.0
    mismatch_cap: float | None = 2.0

    def __post_init__(self) -> None:
        for name, value in (("is_clip", self.is_clip), ("mismatch_cap", self.mismatch_cap)):
            if value is not None and value <= 0.0:
                raise ConfigError(
                    f"importance.{name}: got {value:g}, expected a positive cap, or null to leave "
                    "it out"
                )


def ratio(log_numerator: Tensor, log_denominator: Tensor) -> Tensor:
    """exp(clamp(numerator - denominator, -20, 20)), [C]."""
    return (log_numerator - log_denominator).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def truncated(weight: Tensor, cap: float | None) -> Tensor:
    """min(weight, cap), detached; 1 where the cap is None."""
    return torch.ones_like(weight) if cap is None else weight.detach().clamp(max=cap)
