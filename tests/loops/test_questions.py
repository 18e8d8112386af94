from __future__ import annotations

import pytest

from sdpo_megatron import config
from sdpo_megatron.loops.questions import num_steps, questions_of_step
from sdpo_megatron.nouns import Question

QUESTIONS = [Question(id=str(i), task="t", messages=()) for i in range(5)]


def _ids(step: int, seed: int = 0, per_step: int = 2) -> list[str]:
    return [q.id for q in questions_of_step(QUESTIONS, step, per_step=per_step, seed=seed)]


def test_every_question_comes_once_an_epoch() -> None:
    asked = [i for step in range(5) for i in _ids(step)]  # two epochs of five
    assert sorted(asked[:5]) == sorted(asked[5:]) == ["0", "1", "2", "3", "4"]


def test_the_order_depends_on_seed_and_step_alone() -> None:
    assert _ids(3) == _ids(3)
    assert [_ids(s, seed=1) for s in range(5)] != [_ids(s, seed=2) for s in range(5)]
    assert _ids(0) + _ids(1) != _ids(5, per_step=2) + _ids(6, per_step=2)  # epochs are reshuffled


def test_a_batch_may_be_larger_than_the_task() -> None:
    assert sorted(_ids(0, per_step=5)) == ["0", "1", "2", "3", "4"]
    assert len(_ids(0, per_step=7)) == 7


@pytest.mark.parametrize(
    ("length", "questions", "steps"),
    [
        (["run.steps=6"], 100, 6),
        (["run.steps=null", "run.epochs=30"], 1890, 30 * 1890 // 32),
        (
            ["run.steps=null", "run.epochs=1"],
            5,
            1,
        ),  # a batch larger than the task is still one step
        (["run.steps=2", "run.epochs=30"], 1890, 2),
        (["run.steps=9000", "run.epochs=3"], 64, 6),
    ],
)
def test_a_run_ends_by_steps_or_by_epochs_whichever_is_first(
    length: list[str], questions: int, steps: int
) -> None:
    assert num_steps(config.load(["batch.questions=32", *length]), questions) == steps
