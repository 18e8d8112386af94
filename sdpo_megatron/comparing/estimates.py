"""Means with intervals over seeds, and how soon a level is reached: pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sdpo_megatron.comparing.comparison import Step
from sdpo_megatron.evaluation.estimates import student_quantile


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its 95 % interval; NaN where one value alone tells nothing."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.3f}" + (
            "" if math.isnan(self.half_width) else f" ± {self.half_width:.3f}"
        )


def estimate(values: Sequence[float]) -> Estimate:
    """The mean over seeds with Student's interval: right where seeds scatter normally, and wide
    where there are few.
    """
    if not values:
        return Estimate(math.nan, math.nan)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean, math.nan)
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, error * student_quantile(len(values) - 1))


def smoothed(steps: Sequence[Step], key: str, window: int) -> list[float]:
    """`key` at each step as the mean of the last `window` steps that measured it; NaN before the
    first.
    """
    seen: list[float] = []
    found = []
    for step in steps:
        value = step.get(key)
        if value is not None and not math.isnan(value):
            seen.append(value)
        found.append(statistics.fmean(seen[-window:]) if seen else math.nan)
    return found


def generations(steps: Sequence[Step]) -> list[float]:
    """Attempts sampled up to each step, this one included."""
    total, found = 0.0, []
    for step in steps:
        total += step["rollout/attempts"]
        found.append(total)
    return found


def generations_to(steps: Sequence[Step], level: float, window: int) -> float:
    """Attempts sampled until the smoothed success rate first is at `level`; infinite when it never
    is.
    """
    curve = smoothed(steps, "rollout/success_rate", window)
    for value, total in zip(curve, generations(steps), strict=True):
        if value >= level:
            return total
    return math.inf
