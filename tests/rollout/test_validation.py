"""Validation: when it is due, which questions it asks, what it reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sdpo_megatron.nouns import Attempt, Group, Question, Verdict
from sdpo_megatron.observability.metrics import BY_KEY
from sdpo_megatron.rollout.config import SamplingConfig, ValidationConfig
from sdpo_megatron.rollout.sampler import attempt_seed
from sdpo_megatron.rollout.summary import group_sums
from sdpo_megatron.rollout.validation import (
    is_due,
    validation_metrics,
    validation_sampling,
    validation_task,
)
from sdpo_megatron.tasks import load_task
from sdpo_megatron.tasks.config import TaskConfig

EVERY_5 = ValidationConfig(every=5)


def test_it_is_due_before_training_every_fifth_batch_and_after_the_last() -> None:
    due = [step for step in range(13) if is_due(EVERY_5, step, last=step == 12)]
    assert due == [0, 5, 10, 12]
    later = replace(EVERY_5, before_training=False)
    assert not is_due(later, 0, last=False)
    assert not any(is_due(ValidationConfig(), step, last=True) for step in range(11))


def test_it_asks_the_held_out_split_whatever_training_picks(tmp_path: Path) -> None:
    chemistry = tmp_path / "chemistry"
    chemistry.mkdir()
    line = '{{"idx": {}, "system": "s", "prompt": "p", "answer": "A"}}\n'
    for split, numbers in (("train", range(6)), ("test", range(6, 9))):
        text = "".join(line.format(n) for n in numbers)
        (chemistry / f"{split}.jsonl").write_text(text)
    task = TaskConfig(
        name="sciknoweval", path=str(tmp_path), subset="chemistry", ids=("2",), limit=1
    )
    asked = load_task(validation_task(EVERY_5, task)).questions
    assert [question.id for question in asked] == ["6", "7", "8"]
    fewer = load_task(validation_task(replace(EVERY_5, limit=2), task)).questions
    assert [question.id for question in fewer] == ["6", "7"]
    file = str(chemistry / "test.jsonl")
    given = validation_task(replace(EVERY_5, path=file), replace(task, path=None))
    assert len(load_task(given).questions) == 3


def test_it_asks_those_held_out_questions_that_are_named() -> None:
    ids = ("sum_two/name/test1", "far_from/name/test0")
    task = TaskConfig(name="hidden_api", ids=("sum_two/name/train0",), limit=1)
    asked = load_task(validation_task(replace(EVERY_5, ids=ids), task)).questions
    assert [question.id for question in asked] == [f"hidden_api/{name}" for name in ids]
    trained = replace(EVERY_5, split=None, ids=("sum_two/name/train3",))
    (one,) = load_task(validation_task(trained, task)).questions
    assert one.id == "hidden_api/sum_two/name/train3"


def test_without_a_split_it_asks_the_training_questions() -> None:
    task = TaskConfig(name="gsm8k", limit=3)
    assert validation_task(replace(EVERY_5, split=None), task) == task


def test_it_asks_for_all_tests_where_training_runs_the_public_ones() -> None:
    task = TaskConfig(name="livecodebench", hidden_tests=False)
    public, whole = (
        load_task(chosen).questions
        for chosen in (task, validation_task(replace(EVERY_5, split=None), task))
    )
    assert [q.id for q in public] == [q.id for q in whole]
    assert all(
        len(p.item["tests"]) < len(w.item["tests"]) for p, w in zip(public, whole, strict=True)
    )


def test_it_samples_as_told_and_with_seeds_of_its_own() -> None:
    training = SamplingConfig(num_attempts=8, max_new_tokens=77, seed=3)
    found = validation_sampling(EVERY_5, training)
    assert (found.num_attempts, found.temperature, found.top_p) == (16, 0.6, 0.95)
    assert found.max_new_tokens == 77
    assert attempt_seed(found.seed, 0, "q", 0) != attempt_seed(training.seed, 0, "q", 0)


def group(*successes: bool) -> Group:
    attempts = tuple(
        Attempt(
            question_id="q",
            index=index,
            prompt_ids=(1,),
            response_ids=(1,) * (index + 1),
            log_probs=(0.0,) * (index + 1),
            loss_mask=(True,) * (index + 1),
            versions=(),
            finish_reason="stop" if success else "length",
            text="",
        )
        for index, success in enumerate(successes)
    )
    verdicts = tuple(
        Verdict(reward=float(s), success=s, format_ok=True, feedback="") for s in successes
    )
    return Group(
        question=Question(id="q", task="t", messages=()), attempts=attempts, verdicts=verdicts
    )


def test_metrics_by_hand() -> None:
    groups = [group(True, False, False, False), group(False, False), group()]
    found = validation_metrics([group_sums(one) for one in groups], 2.0)
    assert found["validation/success_rate"] == pytest.approx(1 / 6)
    assert found["validation/best_of_n"] == 0.5  # a group whose attempts were all lost says nothing
    assert found["validation/response_tokens_mean"] == pytest.approx((10 + 3) / 6)
    assert found["validation/truncated_fraction"] == pytest.approx(5 / 6)
    assert (found["validation/attempts"], found["time/validation_s"]) == (6.0, 2.0)
    assert found.keys() <= BY_KEY.keys()
