"""The numbers of a rollout batch, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from sdpo_megatron.nouns import Attempt, Group, Question, TeacherContext, Verdict
from sdpo_megatron.rollout.summary import (
    group_sums,
    rollout_metrics,
    teacher_metrics,
    teacher_sums,
)


def attempt(tokens: int, finish: str = "stop") -> Attempt:
    return Attempt(
        question_id="q",
        index=0,
        prompt_ids=(1,),
        response_ids=(2,) * tokens,
        log_probs=(-1.0,) * tokens,
        loss_mask=(True,) * tokens,
        versions=(),
        finish_reason=finish,  # type: ignore[arg-type]
        text="",
    )


def group(verdicts: str, *, attempts: list[Attempt] | None = None, dropped: int = 0) -> Group:
    """One verdict a letter: s(olved), f(ailed), m(alformed and failed)."""
    return Group(
        question=Question(id="q", task="t", messages=()),
        attempts=tuple(attempts or [attempt(4) for _ in verdicts]),
        verdicts=tuple(
            Verdict(reward=1.0 * (v == "s"), success=v == "s", format_ok=v != "m", feedback="")
            for v in verdicts
        ),
        dropped=dropped,
    )


def context(*, solution: bool = False, feedback: bool = False, cut: int = 0) -> TeacherContext:
    fields: dict[str, Any] = {
        "messages": (),
        "prompt_ids": (1,),
        "has_solution": solution,
        "has_feedback": feedback,
        "num_cut_tokens": cut,
    }
    return TeacherContext(**fields)


def test_only_groups_with_both_outcomes_are_mixed() -> None:
    groups = [group("ss"), group("ff"), group("sf"), group("fm"), group("s"), group("")]
    assert rollout_metrics([group_sums(one) for one in groups], 1.0)[
        "groups/mixed_fraction"
    ] == pytest.approx(1 / 6)


def test_attempts_are_counted_not_groups() -> None:
    groups = [
        group("sfm", attempts=[attempt(1), attempt(2), attempt(6, "length")], dropped=2),
        group("f", attempts=[attempt(3)], dropped=1),
    ]
    metrics = rollout_metrics([group_sums(one) for one in groups], 4.0)
    assert metrics["rollout/success_rate"] == 1 / 4
    assert metrics["rollout/reward_mean"] == 1 / 4
    assert metrics["rollout/format_ok_fraction"] == 3 / 4
    assert metrics["rollout/response_tokens_mean"] == 12 / 4
    assert metrics["rollout/truncated_fraction"] == 1 / 4
    assert metrics["rollout/tokens_per_s"] == 12 / 4.0
    assert metrics["rollout/attempts"] == 4.0
    assert metrics["rollout/dropped_attempts"] == 3.0


def test_no_attempts_and_no_time_are_zeros() -> None:
    metrics = rollout_metrics([], 0.0)
    assert set(metrics.values()) == {0.0}


def test_what_the_teacher_was_shown() -> None:
    shown = [
        context(solution=True, cut=3),
        context(solution=True, feedback=True),
        context(feedback=True),
        None,
        None,
    ]
    assert teacher_metrics([teacher_sums(shown[:2]), teacher_sums(shown[2:])]) == {
        "groups/with_solution_fraction": 2 / 5,
        "groups/with_feedback_fraction": 2 / 5,
        "groups/with_neither_fraction": 2 / 5,
        "teacher/cut_tokens_mean": 1.0,
    }
