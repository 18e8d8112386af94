"""Advantages of the attempts of one question from their rewards: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """A_i = r_i - mean(r): GRPO without the division by the standard deviation (method section 4).

    A group of one has advantage 0. Raises ValueError where a reward is not finite.
    """
    for index, reward in enumerate(rewards):
        if not math.isfinite(reward):
            raise ValueError(
                f"reward {index} of the group is {reward}; an attempt without a verdict must be "
                "dropped, not scored"
            )
    if len(set(rewards)) < 2:  # exactly 0, where rounding of the mean would leave 1e-17
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]
