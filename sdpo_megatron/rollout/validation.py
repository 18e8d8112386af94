"""Validation: attempts at held-out questions, sampled as a user would sample, judged, never trained
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sdpo_megatron.rollout.config import SamplingConfig, ValidationConfig
from sdpo_megatron.rollout.summary import Sums, rollout_metrics
from sdpo_megatron.tasks.config import TaskConfig

SEED_OFFSET = 1  # seeds of its own: they must not be those of a training step


def is_due(config: ValidationConfig, step: int, *, last: bool) -> bool:
    """Whether the policy is validated after `step` rollout batches; 0 is before training."""
    if not config.every:
        return False
    return config.before_training if step == 0 else last or step % config.every == 0


def validation_task(config: ValidationConfig, task: TaskConfig) -> TaskConfig:
    """The task that validation asks: the training task on its held-out questions."""
    task = replace(task, hidden_tests=True)
    if config.split is None:
        ids, limit = config.ids or task.ids, config.limit or task.limit
        return replace(task, path=config.path or task.path, ids=ids, limit=limit)
    return replace(
        task,
        path=config.path or task.path,
        split=config.split,
        ids=config.ids,
        limit=config.limit,
    )


def validation_sampling(config: ValidationConfig, sampling: SamplingConfig) -> SamplingConfig:
    """How validation samples: as training does but for number, temperature, nucleus and seeds."""
    return replace(
        sampling,
        num_attempts=config.num_attempts,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=sampling.seed + SEED_OFFSET,
    )


def validation_metrics(groups: Sequence[Sums], seconds: float) -> dict[str, float]:
    """avg@n, best@n and what the attempts looked like, from the sums of each group."""
    found = rollout_metrics(groups, seconds)
    solved = [group["success"] > 0 for group in groups if group["attempts"]]
    return {
        "validation/success_rate": found["rollout/success_rate"],
        "validation/best_of_n": sum(solved) / len(solved) if solved else 0.0,
        "validation/reward_mean": found["rollout/reward_mean"],
        "validation/response_tokens_mean": found["rollout/response_tokens_mean"],
        "validation/truncated_fraction": found["rollout/truncated_fraction"],
        "validation/format_ok_fraction": found["rollout/format_ok_fraction"],
        "validation/attempts": found["rollout/attempts"],
        "validation/dropped_attempts": found["rollout/dropped_attempts"],
        "time/validation_s": seconds,
    }
