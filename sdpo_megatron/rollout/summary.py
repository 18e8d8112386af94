"""What a rollout batch looked like, as metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sdpo_megatron.nouns import Group, TeacherContext


def rollout_metrics(groups: Sequence[Group], seconds: float) -> dict[str, float]:
    """Metrics of attempts and verdicts; `seconds` of sampling, with judging where it overlapped."""
    attempts = [attempt for group in groups for attempt in group.attempts]
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    tokens = sum(len(attempt.response_ids) for attempt in attempts)
    return {
        "rollout/success_rate": _mean(verdict.success for verdict in verdicts),
        "rollout/reward_mean": _mean(verdict.reward for verdict in verdicts),
        "rollout/format_ok_fraction": _mean(verdict.format_ok for verdict in verdicts),
        "rollout/response_tokens_mean": _mean(len(attempt.response_ids) for attempt in attempts),
        "rollout/truncated_fraction": _mean(
            attempt.finish_reason == "length" for attempt in attempts
        ),
        "rollout/tokens_per_s": tokens / seconds if seconds > 0 else 0.0,
        "rollout/attempts": float(len(attempts)),
        "rollout/dropped_attempts": float(sum(group.dropped for group in groups)),
        "rollout/staleness_max": 0.0,
        "groups/mixed_fraction": _mean(
            len({v.success for v in group.verdicts}) == 2 for group in groups
        ),
    }


def teacher_metrics(contexts: Sequence[TeacherContext | None]) -> dict[str, float]:
    """What the teacher's prompts hold, attempt by attempt; None is an attempt without any."""
    return {
        "groups/with_solution_fraction": _mean(c is not None and c.has_solution for c in contexts),
        "groups/with_feedback_fraction": _mean(c is not None and c.has_feedback for c in contexts),
        "groups/with_neither_fraction": _mean(c is None for c in contexts),
        "teacher/cut_tokens_mean": _mean(c.num_cut_tokens for c in contexts if c is not None),
    }


def _mean(values: Iterable[float]) -> float:
    found = [float(value) for value in values]
    return sum(found) / len(found) if found else 0.0
