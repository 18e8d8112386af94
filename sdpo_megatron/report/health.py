"""Is the run healthy? What the run's own rules and counters say, in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.metrics import BY_KEY

__all__ = ["Finding", "findings"]


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        state: good, bad (look at it) or unknown (not measured in this run).
        title: What was looked at.
        text: What was seen.
        runbook: Page of docs/runbooks that says what to do; "" for none.
    """

    state: str
    title: str
    text: str
    runbook: str = ""


_SIGNS = (
    ("teacher", "Teacher on solved attempts", "SdpoTeacherMisleads"),
    ("prompt", "Teacher's prompt", "SdpoTeacherPromptDoesNotHelp"),
    ("success", "Success", "SdpoSuccessCollapse"),
    ("entropy", "Entropy", "SdpoEntropyCollapse"),
    ("length", "Length of responses", "SdpoLengthCollapse"),
)
_COUNTERS = (
    ("train/skipped_steps", "Optimiser steps skipped", "SdpoStepsSkipped"),
    ("rollout/dropped_attempts", "Attempts dropped", "SdpoAttemptsDropped"),
    ("engine/restarts", "Engines restarted", "SdpoEngineFlapping"),
    ("verify/infrastructure_failures", "Verifications that failed", "SdpoInfrastructureFailures"),
)


def findings(reports: Sequence[StepReport]) -> list[Finding]:
    """Collapse signs first, then what the teacher knows, then what went wrong."""
    if not reports:
        return []
    return [
        *(_sign(reports, *sign) for sign in _SIGNS),
        _gain(reports),
        _agreement(reports),
        *(_counter(reports, *counter) for counter in _COUNTERS),
    ]


def _sign(reports: Sequence[StepReport], name: str, title: str, runbook: str) -> Finding:
    key = f"collapse/{name}"
    if name == "prompt" and not _known(reports, "teacher/prompt_success"):
        text = "Not measured: run.diagnostics_every is 0, or nothing was due yet."
        return Finding("unknown", title, text)
    if name == "teacher" and not _known(reports, "teacher/gain_success"):
        return Finding("unknown", title, "Not measured: no attempt of this run had a teacher.")
    seen = _steps(reports, lambda report: report.metrics.get(key, 0.0) > 0)
    if not seen:
        return Finding("good", title, "No sign of a collapse.")
    return Finding("bad", title, f"{BY_KEY[key].help}: {ranges(seen)}.", runbook)


def _gain(reports: Sequence[StepReport]) -> Finding:
    title = "Teacher on failed attempts"
    values = _known(reports, "teacher/gain_failed")[-_recent(reports) :]
    if not values:
        return Finding("unknown", title, "Not measured: no failed attempt had a teacher.")
    value = mean(values)
    about = f"{value:+.3f} nats a token against the student's own, lately"
    if value < 0:
        return Finding("good", title, f"It finds them less likely: {about}.")
    text = f"It finds them more likely: {about}. It copies the failures that it is to mend."
    return Finding("bad", title, text, "SdpoTeacherMisleads")


def _agreement(reports: Sequence[StepReport]) -> Finding:
    title = "Trainer and engine"
    values = _known(reports, "importance/log_prob_gap")
    if not values:
        return Finding("unknown", title, "Not measured yet.")
    worst, first = max(values), values[0]
    text = f"Their log-probabilities of the same tokens differ by {values[-1]:.3f} nats"
    text += f", {worst:.3f} at worst."
    return Finding("bad" if worst > max(3 * first, 0.1) else "good", title, text)


def _counter(reports: Sequence[StepReport], key: str, title: str, runbook: str) -> Finding:
    total = sum(v for v in _known(reports, key))
    if not total:
        return Finding("good", title, "None.")
    seen = _steps(reports, lambda report: report.metrics.get(key, 0.0) > 0)
    return Finding("bad", title, f"{total:.0f}: {ranges(seen)}.", runbook)


def _recent(reports: Sequence[StepReport]) -> int:
    return max(1, len(reports) // 4)


def _known(reports: Sequence[StepReport], key: str) -> list[float]:
    values = (report.metrics.get(key, math.nan) for report in reports)
    return [value for value in values if math.isfinite(value)]


def _steps(reports: Iterable[StepReport], when: Callable[[StepReport], bool]) -> list[int]:
    return [report.step for report in reports if when(report)]


def ranges(steps: Sequence[int]) -> str:
    """[3, 4, 5, 9] -> "steps 3 to 5, 9"."""
    parts: list[list[int]] = []
    for step in steps:
        if parts and step == parts[-1][-1] + 1:
            parts[-1].append(step)
        else:
            parts.append([step])
    words = [str(p[0]) if len(p) == 1 else f"{p[0]} to {p[-1]}" for p in parts]
    shown = ", ".join(words[:8]) + (f" and {len(words) - 8} more" if len(words) > 8 else "")
    return f"step{'s' if len(steps) > 1 else ''} {shown}"
