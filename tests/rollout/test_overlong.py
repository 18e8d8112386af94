"""Questions too long for the student's or the teacher's prompt limit are left out."""

from __future__ import annotations

from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import Question
from sdpo_megatron.rollout.config import TeacherPromptConfig
from sdpo_megatron.rollout.overlong import within_limits
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.teacher_prompts import TeacherPromptBuilder


def question(words: int) -> Question:
    content = " ".join(["word"] * words)
    return Question(id=str(words), task="t", messages=({"role": "user", "content": content},))


QUESTIONS = [question(words) for words in (40, 5, 200, 6)]


@pytest.fixture
def prompts(tokenizer: Any) -> PromptBuilder:
    return PromptBuilder(tokenizer)


def kept(prompts: PromptBuilder, limit: int, teacher_limit: int | None = None) -> list[str]:
    teacher = None
    if teacher_limit is not None:
        teacher = TeacherPromptBuilder(
            prompts, TeacherPromptConfig(max_prompt_tokens=teacher_limit)
        )
    return [q.id for q in within_limits(QUESTIONS, prompts, limit, teacher)]


def test_the_limit_is_of_the_whole_prompt_and_inclusive(prompts: PromptBuilder) -> None:
    exact = len(prompts.question_ids(QUESTIONS[0]))
    assert kept(prompts, exact) == ["40", "5", "6"]
    assert kept(prompts, exact - 1) == ["5", "6"]


def test_the_teachers_template_must_fit_as_well(prompts: PromptBuilder) -> None:
    bare = TeacherPromptBuilder(prompts, TeacherPromptConfig()).null_context(QUESTIONS[0])
    exact = len(bare.prompt_ids)
    assert kept(prompts, 10_000, exact) == ["40", "5", "6"]
    assert kept(prompts, 10_000, exact - 1) == ["5", "6"]


def test_no_question_left_is_an_error(prompts: PromptBuilder) -> None:
    with pytest.raises(ConfigError, match=r"max_prompt_tokens=1: none of the task's 4 questions"):
        kept(prompts, 1)
