"""Token budgets that contradict each other, and how they are mended.

    student's sequence   prompt limit + response limit
    teacher's sequence   teacher's prompt limit + response limit (where there is a teacher)

Either must fit one micro-batch, in which a sequence is without its last token, and the model's
context; what is sent to an engine must fit the engine's cache and context.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdpo_megatron.errors import ConfigError

if TYPE_CHECKING:
    from sdpo_megatron.config.run import TrainConfig

_STUDENT = "rollout.sampling.max_prompt_tokens"
_TEACHER = "rollout.teacher_prompt.max_prompt_tokens"
_RESPONSE = "rollout.sampling.max_new_tokens"
_MICRO_BATCH = "batch.micro_batch_tokens"
_CACHE = "rollout.engine.max_total_tokens"
_FLAGS = "rollout.engine.extra_args"


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
    context = _context_flag(config.rollout.engine.extra_args)
    sampled = [_STUDENT]
    if _TEACHER in sequences and config.run.diagnostics_every:
        sampled.append(_TEACHER)  # answers are sampled from teacher prompts, too
    for key in sampled:
        if context is not None and sequences[key] > context:
            problems.append(
                (
                    _FLAGS,
                    f"--context-length must be at least {sequences[key]} for {{{key}}} and "
                    f"{{{_RESPONSE}}}; raise it, or lower one of these",
                )
            )
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


def check_model_context(config: TrainConfig, max_position: int) -> None:
    """Whether the longest legal sequences fit a model of `max_position` positions.

    Raises:
        ConfigError: They do not; the message names the keys and what is possible.
    """
    problems = []
    for key, tokens in sequence_tokens(config).items():
        if tokens > max_position:
            response = config.rollout.sampling.max_new_tokens
            problems.append(
                f"{key}={tokens - response}: with {_RESPONSE}={response} a sequence has up to "
                f"{tokens} tokens, but the model at model.path={config.model.path} has "
                f"max_position_embeddings {max_position}; lower one of these"
            )
    if problems:
        raise ConfigError("\n".join(problems))


def _context_flag(words: Sequence[str]) -> int | None:
    """SGLang's --context-length among extra arguments; None: the model's context counts."""
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, _, value = word.partition("=")
        number = value or following
        if name == "--context-length" and number.isdecimal():
            return int(number)
    return None
