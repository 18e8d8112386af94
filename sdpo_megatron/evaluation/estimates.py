"""Means over questions with intervals: pure functions.

The unit is the question. Attempts at one question are alike, so an interval over attempts would be
far too narrow; one over questions says where the mean would lie for other questions of the kind.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance

import numpy as np

LEVEL = 0.95
_DRAWS = 2000
_DRAWN_AT_ONCE = 1 << 21  # values


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval; NaN where nothing, or one question alone, was measured."""

    value: float
    low: float
    high: float


NOTHING = Estimate(math.nan, math.nan, math.nan)


def proportion(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of one value in [0, 1] a question, with Wilson's interval at the number of
    independent trials that would scatter as the questions do (their mean over its design effect),
    and Student's quantile, since that number is an estimate as well.

    It stays within [0, 1] and is not empty where all questions are solved or none is.
    """
    count = len(values)
    if not count:
        return NOTHING
    mean = fmean(values)
    if count < 2:
        return Estimate(mean, math.nan, math.nan)
    scatter = variance(values) / count
    trials = mean * (1 - mean) / scatter if scatter > 0 else float(count)
    z = student_quantile(count - 1, level)
    middle = (mean + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(mean * (1 - mean) / trials + (z / (2 * trials)) ** 2)
    half /= 1 + z * z / trials
    return Estimate(mean, max(0.0, middle - half), min(1.0, middle + half))


def bootstrapped(values: Sequence[float], level: float = LEVEL, seed: int = 0) -> Estimate:
    """The mean of one value a question, with a bootstrap interval over questions.

    Percentiles are taken a little further out than the level (by Student's quantile and the factor
    sqrt(n / (n - 1))): plain ones are too narrow for few questions (Hesterberg, arXiv 1411.5279,
    section 5.3).
    """
    count = len(values)
    if not count:
        return NOTHING
    mean = fmean(values)
    if count < 2:
        return Estimate(mean, math.nan, math.nan)
    random = np.random.default_rng(seed)
    table = np.asarray(values)
    rows = max(1, _DRAWN_AT_ONCE // count)
    drawn = np.concatenate(
        [
            table[random.integers(0, count, (min(rows, _DRAWS - start), count))].mean(1)
            for start in range(0, _DRAWS, rows)
        ]
    )
    z = student_quantile(count - 1, level) * math.sqrt(count / (count - 1))
    tail = 100 * NormalDist().cdf(-z)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Estimate(mean, float(low), float(high))


@functools.cache
def student_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with P(|T| < t) = `level` for `freedom` degrees of freedom."""
    import mpmath

    def outside(t: float) -> float:
        inside = freedom / (freedom + t * t)
        return float(mpmath.betainc(freedom / 2, 0.5, 0, inside, regularized=True))

    low, high = 0.0, 1.0
    while outside(high) > 1.0 - level:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if outside(middle) > 1.0 - level else (low, middle)
    return high


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`, and `most` itself."""
    powers = [2**exponent for exponent in range(most.bit_length()) if 2**exponent < most]
    return [*powers, most] if most else []
