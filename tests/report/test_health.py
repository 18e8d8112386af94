"""Health in words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.metrics import BY_KEY
from sdpo_megatron.report.health import Finding, findings, ranges

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"


def steps(**changes: dict[int, float]) -> list[StepReport]:
    """Five healthy steps; `changes` by metric, with / written as __."""
    found = []
    for step in range(1, 6):
        metrics = {key: 0.0 if m.kind == "counter" else math.nan for key, m in BY_KEY.items()}
        metrics |= {"teacher/gain_success": 0.1, "teacher/gain_failed": -0.2}
        metrics |= {"importance/log_prob_gap": 0.02, "teacher/prompt_success": 0.5}
        metrics |= {key.replace("__", "/"): values.get(step, metrics[key.replace("__", "/")])
                    for key, values in changes.items()}  # fmt: skip
        found.append(StepReport(step=step, policy_version=step, metrics=metrics))
    return found


def by_title(reports: list[StepReport]) -> dict[str, Finding]:
    return {finding.title: finding for finding in findings(reports)}


def test_a_healthy_run_is_good_throughout() -> None:
    assert {f.state for f in findings(steps())} == {"good"}
    assert findings([]) == []


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("collapse__teacher", "Teacher on solved attempts"),
        ("collapse__prompt", "Teacher's prompt"),
        ("collapse__success", "Success"),
        ("collapse__entropy", "Entropy"),
        ("collapse__length", "Length of responses"),
        ("train__skipped_steps", "Optimiser steps skipped"),
        ("rollout__dropped_attempts", "Attempts dropped"),
        ("engine__restarts", "Engines restarted"),
        ("verify__infrastructure_failures", "Verifications that failed"),
    ],
)
def test_each_sign_is_told_with_its_steps_and_what_to_do(key: str, title: str) -> None:
    found = by_title(steps(**{key: {2: 1.0, 3: 1.0, 5: 2.0}}))
    bad = [name for name, finding in found.items() if finding.state == "bad"]
    assert bad == [title]
    assert "steps 2 to 3, 5" in found[title].text
    assert (RUNBOOKS / f"{found[title].runbook}.md").is_file()


def test_a_teacher_that_copies_failures_is_bad() -> None:
    found = by_title(steps(teacher__gain_failed={5: 0.3}))["Teacher on failed attempts"]
    assert found.state == "bad"
    assert "+0.300 nats" in found.text
    assert (RUNBOOKS / f"{found.runbook}.md").is_file()


def test_a_trainer_that_leaves_the_engine_is_bad() -> None:
    found = by_title(steps(importance__log_prob_gap={4: 0.3}))["Trainer and engine"]
    assert found.state == "bad"
    assert "0.300 at worst" in found.text


def test_what_was_not_measured_is_not_called_good() -> None:
    nothing = dict.fromkeys(range(1, 6), math.nan)
    found = by_title(
        steps(
            teacher__prompt_success=nothing,
            teacher__gain_failed=nothing,
            teacher__gain_success=nothing,
            importance__log_prob_gap=nothing,
        )
    )
    unknown = {title for title, finding in found.items() if finding.state == "unknown"}
    assert unknown == {
        "Teacher's prompt",
        "Teacher on solved attempts",
        "Teacher on failed attempts",
        "Trainer and engine",
    }


def test_ranges() -> None:
    assert ranges([7]) == "step 7"
    assert ranges([1, 2, 3, 9]) == "steps 1 to 3, 9"
    assert ranges(list(range(0, 40, 2))).endswith("14 and 12 more")
