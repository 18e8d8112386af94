"""Groups become samples: who is taught by what, and how much each attempt counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sdpo_megatron.nouns import Attempt, Group, Question, TrainSample, Verdict, VersionSpan
from sdpo_megatron.objectives import (
    DistillationConfig,
    GrpoWeighting,
    ObjectiveConfig,
    PolicyGradientConfig,
    SrpoWeighting,
    build_objective,
)
from sdpo_megatron.rollout.batch import BatchMaker
from sdpo_megatron.rollout.config import TeacherPromptConfig
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.teacher_prompts import TeacherPromptBuilder

SDPO = ObjectiveConfig(distillation=DistillationConfig(top_k=10))
GRPO = ObjectiveConfig(
    weighting=GrpoWeighting(),
    distillation=None,
    policy_gradient=PolicyGradientConfig(),
)


def group(rewards: list[float], *, question: str = "q", finish: str = "stop") -> Group:
    attempts, verdicts = [], []
    for index, reward in enumerate(rewards):
        ids = (50 + index, 60 + index)
        attempts.append(
            Attempt(
                question_id=question,
                index=index,
                prompt_ids=(1, 2, 3),
                response_ids=ids,
                log_probs=(-0.5, -0.25),
                loss_mask=(True, True),
                versions=(VersionSpan(0, 2, 0),),
                finish_reason=finish,  # type: ignore[arg-type]
                text=f"attempt {index}",
            )
        )
        feedback = "" if reward == 1.0 else "wrong"
        verdicts.append(
            Verdict(reward=reward, success=reward == 1.0, format_ok=True, feedback=feedback)
        )
    asked = Question(id=question, task="t", messages=({"role": "user", "content": "Do it."},))
    return Group(question=asked, attempts=tuple(attempts), verdicts=tuple(verdicts))


@pytest.fixture
def make(tokenizer: Any) -> Any:
    def build(objective: ObjectiveConfig, feedback_when: str = "never") -> BatchMaker:
        config = TeacherPromptConfig(feedback_when=feedback_when)
        prompts = TeacherPromptBuilder(PromptBuilder(tokenizer), config)
        return BatchMaker(prompts, build_objective(objective))

    return build


def weights(samples: list[TrainSample]) -> list[tuple[float, float]]:
    return [(s.distill_weight, s.policy_weight) for s in samples]


def test_siblings_teach_the_failed_and_each_other(make: Any) -> None:
    samples, contexts = make(SDPO).make_group(group([0.0, 1.0, 0.0]))
    # The only success has no sibling to learn from: its own attempt is excluded.
    assert weights(samples) == [(1.0, 0.0), (0.0, 0.0), (1.0, 0.0)]
    assert [c is not None and c.has_solution for c in contexts] == [True, False, True]
    assert samples[0].teacher_prompt_ids.tolist() == list(contexts[0].prompt_ids)
    assert samples[1].teacher_prompt_ids is None
    assert [s.success for s in samples] == [False, True, False]


def test_without_success_or_feedback_nobody_is_taught(make: Any) -> None:
    samples, contexts = make(SDPO).make_group(group([0.0, 0.0]))
    assert weights(samples) == [(0.0, 0.0)] * 2
    assert contexts == [None, None]


def test_feedback_teaches_where_no_sibling_can(make: Any) -> None:
    samples, contexts = make(SDPO, "no_solution").make_group(group([0.0, 0.0]))
    assert weights(samples) == [(1.0, 0.0)] * 2
    assert all(c is not None and c.has_feedback and not c.has_solution for c in contexts)


def test_grpo_has_group_advantages_and_no_teacher(make: Any) -> None:
    samples, contexts = make(GRPO).make_group(group([1.0, 0.0, 0.0, 1.0]))
    assert [s.advantage for s in samples] == [0.5, -0.5, -0.5, 0.5]
    assert weights(samples) == [(0.0, 1.0)] * 4
    assert contexts == [None] * 4


def test_srpo_routes_by_outcome(make: Any) -> None:
    srpo = ObjectiveConfig(
        weighting=SrpoWeighting(),
        distillation=DistillationConfig(top_k=10),
        policy_gradient=PolicyGradientConfig(),
    )
    samples, _ = make(srpo).make_group(group([0.0, 1.0, 1.0]))
    assert weights(samples) == [(1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]


def test_an_aborted_attempt_has_no_weight(make: Any) -> None:
    samples, _ = make(GRPO).make_group(group([1.0, 0.0], finish="abort"))
    assert weights(samples) == [(0.0, 0.0)] * 2


def test_null_prompts_are_the_template_without_content(make: Any) -> None:
    maker = make(SDPO)
    assert all(s.null_prompt_ids is None for s in maker.make_group(group([0.0, 1.0]))[0])
    samples, _ = maker.make_group(group([0.0, 1.0]), null_prompts=True)
    assert samples[0].null_prompt_ids is not None
    assert samples[0].teacher_prompt_ids is not None
    assert len(samples[0].null_prompt_ids) < len(samples[0].teacher_prompt_ids)
    assert samples[1].null_prompt_ids is None  # it has no teacher


def test_teacher_questions_take_turns_over_the_groups(make: Any) -> None:
    groups = [group([0.0, 0.0, 1.0], question="a"), group([0.0, 1.0], question="b")]
    asked = make(SDPO).teacher_questions(groups, limit=2)
    assert [q.id for q in asked] == ["a#teacher0", "b#teacher0"]
    assert "attempt 2" in asked[0].messages[-1]["content"]  # the sibling's solution
    assert "attempt 1" in asked[1].messages[-1]["content"]


def test_a_sample_holds_the_numbers_of_its_attempt(make: Any) -> None:
    asked = group([1.0, 0.0])
    for sample, attempt in zip(make(SDPO).make_group(asked)[0], asked.attempts, strict=True):
        assert tuple(sample.prompt_ids.tolist()) == attempt.prompt_ids
        assert tuple(sample.response_ids.tolist()) == attempt.response_ids
        assert tuple(sample.loss_mask.tolist()) == attempt.loss_mask
        assert tuple(sample.log_probs.tolist()) == attempt.log_probs
        assert sample.versions == attempt.versions


def test_an_empty_response_is_left_out_alone(make: Any) -> None:
    asked = group([1.0, 0.0, 1.0])
    empty = replace(asked.attempts[0], response_ids=(), log_probs=(), loss_mask=(), versions=())
    asked = replace(asked, attempts=(empty, *asked.attempts[1:]))
    samples, contexts = make(SDPO).make_group(asked)
    assert [sample.index for sample in samples] == [1, 2]
    assert len(contexts) == 2
