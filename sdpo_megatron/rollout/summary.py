"""What a rollout batch looked like, as metrics; made of sums that each group's worker takes.

The sums are small: they travel with the receipt of a group, so that whoever reports a step needs
neither texts nor tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sdpo_megatron.nouns import Group, TeacherContext

Sums = Mapping[str, float]


def group_sums(group: Group) -> dict[str, float]:
    """Sums over the attempts of a group and their verdicts."""
    verdicts, attempts = group.verdicts, group.attempts
    return {
        "attempts": len(attempts),
        "dropped": group.dropped,
        "success": sum(verdict.success for verdict in verdicts),
        "reward": sum(verdict.reward for verdict in verdicts),
        "format_ok": sum(verdict.format_ok for verdict in verdicts),
        "tokens": sum(len(attempt.response_ids) for attempt in attempts),
        "tool_calls": sum(turn["role"] == "tool" for attempt in attempts for turn in attempt.turns),
        "truncated": sum(attempt.finish_reason == "length" for attempt in attempts),
        "mixed": float(len({verdict.success for verdict in verdicts}) == 2),
        "judge_s": sum(verdict.seconds for verdict in verdicts),
        "of_several_versions": sum(
            len({span.version for span in attempt.versions}) > 1 for attempt in attempts
        ),
    }


def teacher_sums(contexts: Sequence[TeacherContext | None]) -> dict[str, float]:
    """Sums over what the teacher is shown of each attempt; None is an attempt without any."""
    shown = [context for context in contexts if context is not None]
    return {
        "contexts": len(contexts),
        "shown": len(shown),
        "with_solution": sum(context.has_solution for context in shown),
        "with_feedback": sum(context.has_feedback for context in shown),
        "cut_tokens": sum(context.num_cut_tokens for context in shown),
    }


def rollout_metrics(groups: Sequence[Sums], seconds: float) -> dict[str, float]:
    """Metrics of attempts and verdicts; `seconds` of sampling, with judging where it overlapped."""
    total = _total(groups)
    attempts = total["attempts"]
    return {
        "rollout/success_rate": _ratio(total["success"], attempts),
        "rollout/reward_mean": _ratio(total["reward"], attempts),
        "rollout/format_ok_fraction": _ratio(total["format_ok"], attempts),
        "rollout/response_tokens_mean": _ratio(total["tokens"], attempts),
        "rollout/tool_calls_mean": _ratio(total["tool_calls"], attempts),
        "rollout/truncated_fraction": _ratio(total["truncated"], attempts),
        "rollout/tokens_per_s": _ratio(total["tokens"], seconds),
        "rollout/attempts": float(attempts),
        "rollout/dropped_attempts": float(total["dropped"]),
        "groups/mixed_fraction": _ratio(total["mixed"], len(groups)),
    }


def teacher_metrics(groups: Sequence[Sums]) -> dict[str, float]:
    """What the teacher's prompts hold, over all attempts."""
    total = _total(groups)
    contexts = total["contexts"]
    return {
        "groups/with_solution_fraction": _ratio(total["with_solution"], contexts),
        "groups/with_feedback_fraction": _ratio(total["with_feedback"], contexts),
        "groups/with_neither_fraction": _ratio(contexts - total["shown"], contexts),
        "teacher/cut_tokens_mean": _ratio(total["cut_tokens"], total["shown"]),
    }


def _total(groups: Iterable[Sums]) -> Counter[str]:
    total: Counter[str] = Counter()
    for sums in groups:
        total.update(sums)  # it adds floats as well as integers
    return total


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
