"""Token budgets that contradict each other, and how they are mended.

    student's sequence   prompt limit + response limit
    teacher's sequence   teacher's prompt limit + response limit (where there is a teacher)

Either must fit one micro-batch, in which a sequence is without its last token; what is sent to an
engine must fit the engine's cache. Whether they fit the model is checked when its config.json has
been read (loops/prepare.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdpo_megatron.config.run import TrainConfig

_STUDENT = "rollout.sampling.max_prompt_tokens"
_TEACHER = "rollout.teacher_prompt.max_prompt_tokens"
_RESPONSE = "rollout.sampling.max_new_tokens"
_MICRO_BATCH = "batch.micro_batch_tokens"
_CACHE = "rollout.engine.max_total_tokens"


def sequence_tokens(config: TrainConfig) -> dict[str, int]:
    """Tokens of the longest legal sequence under each prompt limit in use, by the limit's key."""
    response = config.rollout.sampling.max_new_tokens
    limits = {_STUDENT: config.rollout.sampling.max_prompt_tokens}
    if config.objective.distillation is not None:
        limits[_TEACHER] = config.rollout.teacher_prompt.max_prompt_tokens
    return {key: limit + response for key, limit in limits.items()}


def budget_problems(config: TrainConfig) -> list[tuple[str, str]]:
    """(key, what to say of it) for every contradiction; see `fields.refuse`."""
    problems = []
    sequences = sequence_tokens(config)
    for key, tokens in sequences.items():
        if tokens - 1 > config.batch.micro_batch_tokens:
            problems.append(
                (
                    _MICRO_BATCH,
                    f"must be at least {tokens - 1} for {{{key}}} and {{{_RESPONSE}}}; raise it, "
                    "or lower one of these",
                )
            )
    cache = config.rollout.engine.max_total_tokens
    sampled = [_STUDENT]
    if _TEACHER in sequences and config.run.diagnostics_every:
        sampled.append(_TEACHER)  # answers are sampled from teacher prompts, too
    for key in sampled:
        if cache and sequences[key] > cache:
            problems.append(
                (
                    _CACHE,
                    f"must be at least {sequences[key]} for {{{key}}} and {{{_RESPONSE}}}; raise "
                    "it, lower one of these, or let SGLang decide (0)",
                )
            )
    if _TEACHER in sequences and sequences[_TEACHER] < sequences[_STUDENT]:
        problems.append(
            (
                _TEACHER,
                f"must not be below {{{_STUDENT}}}: the teacher is shown the question and more",
            )
        )
    return problems
