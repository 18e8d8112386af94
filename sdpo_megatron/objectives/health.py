"""Is learning healthy? Metrics from the summed statistics of the loss, and a rule that warns before
a policy collapses.

Pure functions of floats: `summarise` takes the sums of `HeadLoss.sums` after they were added over
micro-batches and data-parallel ranks; the keys of what it returns are declared in
`observability.metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Literal

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.objectives.distillation import THIRDS
from sdpo_megatron.objectives.objective import Objective


def summarise(sums: Mapping[str, float], objective: Objective) -> dict[str, float]:
    """Means, shares and clip fractions.

    The keys depend on the objective only; a mean over nothing is NaN.
    """
    tokens = sums["tokens"]
    squared = sums["mismatch_weight_squared"]
    out = {
        "student/entropy": _over(sums["student_entropy"], tokens),
        "importance/weight_mean": _over(sums["mismatch_weight"], tokens),
        "importance/effective_fraction": _over(sums["mismatch_weight"] ** 2, squared * tokens),
        "importance/clipped_fraction": _over(sums["mismatch_clipped"], tokens),
        "importance/log_prob_gap": _over(sums["mismatch_abs_gap"], tokens),
        "ratio/clipped_fraction": _clipped_fraction(sums),
    }
    if objective.config.distillation is not None:
        out.update(_distillation(sums, objective))
    if objective.config.policy_gradient is not None:
        out["train/policy_loss"] = sums["policy_loss"]
    if objective.config.anchor is not None:
        out["train/anchor_kl"] = _over(sums["anchor_kl"], sums["policy_tokens"])
    return out


def _distillation(sums: Mapping[str, float], objective: Objective) -> dict[str, float]:
    tokens = sums["distill_tokens"]
    out = {
        "train/distill_loss": sums["distill_loss"],
        "teacher/kl_mean": _over(sums["kl"], tokens),
        "teacher/kl_top_tenth_share": _over(sums["kl_top_tenth"], sums["kl"]),
        "teacher/entropy": _over(sums["teacher_entropy"], tokens),
        "teacher/gain_success": _over(sums["gain_success"], sums["tokens_success"]),
        "teacher/gain_failed": _over(sums["gain_failed"], sums["tokens_failed"]),
    }
    for third in THIRDS:
        out[f"teacher/kl_{third}_third"] = _over(
            sums[f"kl_{third}_third"], sums[f"tokens_{third}_third"]
        )
    if "student_support_mass" in sums:
        out["student/top_k_mass"] = _over(sums["student_support_mass"], tokens)
        out["teacher/top_k_mass"] = _over(sums["teacher_support_mass"], tokens)
    if "topk_overlap" in sums:
        out["teacher/top_k_overlap"] = _over(sums["topk_overlap"], tokens)
    return out


def _clipped_fraction(sums: Mapping[str, float]) -> float:
    """Share of tokens, of either term, whose ratio pi_now / pi_old was clipped."""
    clipped = (
        sums.get("is_ratio_clipped", 0.0)
        + sums.get("policy_clipped_low", 0.0)
        + sums.get("policy_clipped_high", 0.0)
        + sums.get("policy_clipped_dual", 0.0)
    )
    return _over(clipped, sums.get("distill_tokens", 0.0) + sums.get("policy_tokens", 0.0))


def _over(total: float, count: float) -> float:
    return total / count if count else math.nan


@dataclass(frozen=True, kw_only=True)
class CollapseRule:
    """When to warn. Baselines are medians of the first `baseline_steps` steps.

    Attributes:
        baseline_steps: Steps that say what is normal for this run.
        patience: Consecutive steps that a sign must last.
        entropy_fraction: Warn when the student's entropy is below this share of its baseline.
        success_fraction: Warn when the success rate is below this share of its baseline.
        length_fraction: Warn when responses are shorter than this share of their baseline and the
            success rate did not rise.
        success_gain: Warn when the teacher's mean gain on successful attempts is below this, in
            nats a token. (Three healthy runs of the quickstart stay above -0.25.)
    """

    baseline_steps: int = 2
    patience: int = 2
    entropy_fraction: float = 0.2
    success_fraction: float = 0.5
    length_fraction: float = 0.25
    success_gain: float = -0.3

    def __post_init__(self) -> None:
        if self.baseline_steps < 1 or self.patience < 1:
            raise ConfigError(
                f"collapse rule: baseline_steps {self.baseline_steps} and patience {self.patience} "
                "must be at least 1"
            )


@dataclass(frozen=True)
class Sign:
    """One thing that looks wrong.

    Attributes:
        name: For monitoring: the metric ``collapse/NAME`` counts it.
        text: For people: what was seen and what to do.
    """

    name: Literal["teacher", "prompt", "success", "entropy", "length"]
    text: str


def collapse_signs(history: Sequence[Mapping[str, float]], rule: CollapseRule) -> list[Sign]:
    """What looks wrong after the last step; empty when nothing does. `history` holds the metrics of
    each step.

    The earliest sign comes first: a teacher that finds successful attempts less likely than the
    student does distils the wording of its prompt, not what it knows, and the success rate follows
    within a few steps.
    """
    recent = history[-rule.patience :]
    start = history[: rule.baseline_steps]
    if len(recent) < rule.patience:
        return []
    signs = []
    gains = [step.get("teacher/gain_success", math.nan) for step in recent]
    if all(gain < rule.success_gain for gain in gains):
        text = (
            "the teacher finds successful attempts less likely than the student does "
            f"({gains[-1]:+.3f} nats a token): its prompt "
            "misleads it; look at teacher/prompt_success and teacher/null_kl, prefer sibling "
            "solutions to feedback"
        )
        signs.append(Sign("teacher", text))
    if len(history) < rule.baseline_steps + rule.patience:
        return signs
    success = _fall("rollout/success_rate", start, recent, rule.success_fraction)
    if success is not None:
        text = (
            f"the success rate fell from {success[0]:.3f} to {success[1]:.3f}: lower the learning "
            "rate, or stop and inspect the attempts"
        )
        signs.append(Sign("success", text))
    entropy = _fall("student/entropy", start, recent, rule.entropy_fraction)
    if entropy is not None:
        text = (
            f"the student's entropy fell from {entropy[0]:.3f} to {entropy[1]:.3f} nats a token: "
            "attempts of a group become alike; "
            "lower the learning rate, or use a slower teacher"
        )
        signs.append(Sign("entropy", text))
    length = _fall("rollout/response_tokens_mean", start, recent, rule.length_fraction)
    if length is not None and not _rose("rollout/success_rate", start, recent):
        text = (
            f"responses shrank from {length[0]:.0f} to {length[1]:.0f} tokens and success did not "
            "rise: the policy may be giving up"
        )
        signs.append(Sign("length", text))
    return signs


_SOLVES_ENOUGH = 0.5  # a student's success rate from which a few answers cannot show a gain


def prompt_sign(history: Sequence[Mapping[str, float]], answers: int) -> Sign | None:
    """The sign that answers sampled from teacher prompts succeed no more often than the
    student's own (method section 8); None when they do, or when the student solves so much that a
    few answers cannot show a gain.

    Args:
        history: Metrics of each step; those without `teacher/prompt_success` are passed over, and
            the last four with it are taken together.
        answers: Sampled at each of them.
    """
    measured = [
        step for step in history if not math.isnan(step.get("teacher/prompt_success", math.nan))
    ][-4:]
    if not measured:
        return None
    rate = mean(step["teacher/prompt_success"] for step in measured)
    student = mean(step["rollout/success_rate"] for step in measured)
    if rate > student or student >= _SOLVES_ENOUGH:
        return None
    text = (
        f"the teacher's prompt does not help: {rate:.2f} of {answers * len(measured)} answers "
        f"under it succeed, the student alone has {student:.2f}. Distilling it may destroy the "
        "policy; prefer siblings to feedback, or a larger model"
    )
    return Sign("prompt", text)


def _baseline(key: str, start: Sequence[Mapping[str, float]]) -> float:
    values = [step[key] for step in start if not math.isnan(step.get(key, math.nan))]
    return median(values) if values else math.nan


def _fall(
    key: str,
    start: Sequence[Mapping[str, float]],
    recent: Sequence[Mapping[str, float]],
    fraction: float,
) -> tuple[float, float] | None:
    """(baseline, now) when every recent value is below `fraction` of the baseline; None otherwise,
    or where unknown.
    """
    baseline = _baseline(key, start)
    below = all(
        step.get(key, math.nan) < fraction * baseline for step in recent
    )  # NaN compares false
    return (baseline, recent[-1][key]) if below else None


def _rose(
    key: str, start: Sequence[Mapping[str, float]], recent: Sequence[Mapping[str, float]]
) -> bool:
    return recent[-1].get(key, math.nan) > _baseline(key, start)
