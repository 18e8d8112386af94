"""Which loss an attempt goes to, and how much it counts: pure functions of rewards.

An attempt has an advantage (policy gradient) and two weights, one for each term of the loss. `sdpo`
and `grpo` switch one term off; `hybrid` mixes them (Eq. 3 of the paper: A = lambda A_grpo + (1 -
lambda) A_sdpo; both terms are linear in their advantage, so mixing the losses mixes the
advantages); `srpo` routes correct attempts to GRPO and failed ones to SDPO (arXiv 2604.02288);
`sft` imitates correct attempts, whatever the others did: their advantage is 1, and the gradient of
a ratio that is 1 is that of the log-likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sdpo_megatron.objectives.advantages import group_advantages
from sdpo_megatron.objectives.config import HybridWeighting, WeightingConfig


@dataclass(frozen=True)
class AttemptWeight:
    """advantage and the two loss weights of one attempt, before masks and denominators."""

    advantage: float
    distill_weight: float
    policy_weight: float


def weigh_group(
    config: WeightingConfig,
    rewards: Sequence[float],
    successes: Sequence[bool],
    has_teacher: Sequence[bool],
) -> list[AttemptWeight]:
    """Weights of the attempts of one question, in order.

    An attempt without a teacher prompt is masked out of the distillation term (method section 1);
    nothing takes its place.

    Raises:
        ValueError: the three sequences differ in length.
    """
    advantages = group_advantages(rewards)
    if config.kind == "sft":
        advantages = [float(success) for success in successes]
    question = question_weight(config, successes)
    weights = []
    for advantage, success, taught in zip(advantages, successes, has_teacher, strict=True):
        distill, policy = _shares(config, success)
        weights.append(AttemptWeight(advantage, question * distill * taught, question * policy))
    return weights


def question_weight(config: WeightingConfig, successes: Sequence[bool]) -> float:
    """sqrt(p (1 - p)) of a question, or 1.

    The question matters most where it is neither solved nor hopeless.
    """
    if config.question_weight == "none" or not successes:
        return 1.0
    rate = sum(successes) / len(successes)
    return math.sqrt(rate * (1.0 - rate))


def _shares(config: WeightingConfig, success: bool) -> tuple[float, float]:
    """(distillation, policy gradient) shares of one attempt."""
    if isinstance(config, HybridWeighting):
        return 1.0 - config.lambda_grpo, config.lambda_grpo
    if config.kind == "sdpo":
        return 1.0, 0.0
    if config.kind == "grpo":
        return 0.0, 1.0
    if config.kind == "sft":
        return 0.0, float(success)
    return (0.0, 1.0) if success else (1.0, 0.0)
