"""Questions whose prompts are too long are left out when a task is loaded, and counted."""

from __future__ import annotations

from collections.abc import Sequence

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import Question
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.teacher_prompts import TeacherPromptBuilder


def within_limits(
    questions: Sequence[Question],
    prompts: PromptBuilder,
    max_prompt_tokens: int,
    teacher: TeacherPromptBuilder | None,
) -> list[Question]:
    """The questions that fit both limits, in order.

    Args:
        max_prompt_tokens: Limit of the student's prompt.
        teacher: Writes the teacher's prompts; the question in its template, with nothing to show,
            must fit their limit. None: the run has no teacher.

    Raises:
        ConfigError: None fits.
    """
    kept, longest = [], 0
    for question in questions:
        tokens = len(prompts.question_ids(question))
        longest = max(longest, tokens)
        if tokens <= max_prompt_tokens and (teacher is None or _fits(question, teacher)):
            kept.append(question)
    if not kept:
        raise ConfigError(
            f"rollout.sampling.max_prompt_tokens={max_prompt_tokens}: none of the task's "
            f"{len(questions)} questions is that short, in the teacher's template too; the longest "
            f"prompt has {longest} tokens"
        )
    return kept


def _fits(question: Question, teacher: TeacherPromptBuilder) -> bool:
    bare = teacher.null_context(question).prompt_ids
    return len(bare) <= teacher.config.max_prompt_tokens
