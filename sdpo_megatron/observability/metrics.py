"""Every metric of a training run, declared once: key, Prometheus name, meaning, unit and kind.

The trainer reports a mapping from these keys to floats (`StepReport.metrics`). `reconcile` makes
that mapping complete: the same keys in every step and on every rank, NaN where a step had nothing
to measure. A counter's value is what this step adds, not the running total.

docs/metrics.md is generated from this file (`make docs`).
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["BY_KEY", "METRICS", "MISMATCHES", "Metric", "UndeclaredMetric", "reconcile"]

Kind = Literal["gauge", "counter", "histogram"]
# When a report must hold a metric: in every step; in each step in which the optimiser moved; or
# where its feature is on and there was something to measure.
Presence = Literal["always", "stepped", "maybe"]

STRICT_VARIABLE = "SDPO_STRICT_METRICS"  # "1" in tests: a mismatch raises instead of being counted
MISMATCHES = "observability/metric_mismatches"


class UndeclaredMetric(ValueError):
    """A report holds a key that is not declared, or lacks one that is."""


@dataclass(frozen=True)
class Metric:
    """One declaration.

    Attributes:
        key: ``group/name``, the key in `StepReport.metrics` and in metrics.jsonl.
        name: The Prometheus name; base units, ``_total`` ends a counter's. "" where Prometheus has
            a better way to the same: a rate of a counter, say.
        unit: For people: "ratio", "tokens", "nats/token", "s", "bytes", ...
        help: One line: what it is, and how to read it where that is not plain.
        kind: gauge (value of the last step), counter (sum over steps) or histogram (of steps).
        presence: When a report without it is incomplete. Counters are never missed: absent is 0.
        buckets: Upper bounds of a histogram, in the metric's unit.
        labels: (label, value): several metrics can be one Prometheus series with different values.
    """

    key: str
    name: str
    unit: str
    help: str
    kind: Kind = "gauge"
    presence: Presence = "always"
    buckets: tuple[float, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def group(self) -> str:
        return self.key.split("/", 1)[0]


def _gauge(
    key: str, name: str, unit: str, help: str, presence: Presence = "always", **labels: str
) -> Metric:
    return Metric(
        key, name and f"sdpo_{name}", unit, help, presence=presence, labels=tuple(labels.items())
    )


def _counter(key: str, name: str, unit: str, help: str, **labels: str) -> Metric:
    name = f"sdpo_{name}_total"
    return Metric(key, name, unit, help, kind="counter", labels=tuple(labels.items()))


def _phase(name: str, help: str, presence: Presence = "always") -> Metric:
    return _gauge(f"time/{name}_s", "step_phase_seconds", "s", help, presence, phase=name)


def _of_ranks(key: str, name: str, unit: str, help: str) -> list[Metric]:
    return [
        _gauge(f"ranks/{key}_{stat}", name, unit, f"{help} ({what})", "stepped", stat=stat)
        for stat, what in (("min", "least"), ("mean", "mean"), ("max", "most"))
    ]


_STEP_BUCKETS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

# fmt: off
METRICS: tuple[Metric, ...] = (
    # What the policy does.
    _gauge("rollout/success_rate", "rollout_success_ratio", "ratio", "Attempts that solved their question"),
    _gauge("rollout/reward_mean", "rollout_reward_mean", "reward", "Mean reward of the attempts"),
    _gauge("rollout/response_tokens_mean", "rollout_response_tokens_mean", "tokens", "Mean length of an attempt"),
    _gauge("rollout/truncated_fraction", "rollout_truncated_ratio", "ratio", "Attempts cut at the length limit"),
    _gauge("rollout/format_ok_fraction", "rollout_format_ok_ratio", "ratio", "Attempts from which an answer could be extracted"),
    _gauge("rollout/tokens_per_s", "", "tokens/s", "Sampled tokens by the seconds of sampling; with rollout.max_staleness, by those since the batch before"),
    _gauge("rollout/tool_calls_mean", "rollout_tool_calls_mean", "calls", "Calls of a tool in an attempt, where the task has one (task.tool)"),
    _counter("rollout/attempts", "rollout_attempts", "attempts", "Attempts sampled"),
    _counter("rollout/dropped_attempts", "rollout_dropped_attempts", "attempts", "Attempts that could not be judged: neither rewarded nor trained on"),
    _gauge("rollout/overlong_questions", "rollout_overlong_questions", "questions", "Questions of the task left out because their prompt is too long", "maybe"),
    _gauge("rollout/staleness_max", "rollout_staleness_versions_max", "versions", "Policy versions between sampling and training, worst token"),
    _gauge("rollout/staleness_mean", "rollout_staleness_versions_mean", "versions", "The same, of each attempt's oldest token, on average"),
    _gauge("rollout/retracted_fraction", "rollout_retracted_ratio", "ratio", "Attempts that a hot swap interrupted, and that went on with the new weights"),
    # Where the groups are (rollouts/ledger.jsonl), when a batch is cut. The states and what was dropped add up to all that were ever planned.
    _gauge("ledger/waiting", "groups", "groups", "Groups planned that no worker has", state="waiting"),
    _gauge("ledger/leased", "groups", "groups", "Groups that a worker makes", state="leased"),
    _gauge("ledger/committed", "groups", "groups", "Groups complete that wait for a batch", state="committed"),
    _gauge("ledger/batched", "groups", "groups", "Groups of batches since the last checkpoint", state="batched"),
    _gauge("ledger/trained", "groups", "groups", "Groups trained on up to the last checkpoint", state="trained"),
    _gauge("ledger/dropped", "groups", "groups", "Groups never trained on", state="dropped"),
    _counter("ledger/dropped_stale", "groups_dropped", "groups", "Groups dropped because they had become too old (rollout.max_staleness)", reason="stale"),
    _counter("ledger/dropped_no_signal", "groups_dropped", "groups", "Groups replaced because nothing could be learnt from them (rollout.max_replaced)", reason="no_signal"),
    _counter("ledger/returned_expired", "groups_returned", "groups", "Groups begun anew: their lease ran out", reason="expired"),
    _counter("ledger/returned_worker_died", "groups_returned", "groups", "Groups begun anew: their worker died", reason="worker_died"),
    _counter("ledger/returned_abandoned", "groups_returned", "groups", "Groups begun anew: weights that a restart has lost made them", reason="abandoned"),
    _counter("ledger/returned_file_lost", "groups_returned", "groups", "Groups begun anew: their file was gone", reason="file_lost"),
    _counter("ledger/returned_restart", "groups_returned", "groups", "Groups begun anew: the run was restarted while they were made", reason="restart"),
    # What the policy does on held-out questions, after the step.
    _gauge("validation/success_rate", "validation_success_ratio", "ratio", "Attempts that solved their question: avg@n", "maybe"),
    _gauge("validation/best_of_n", "validation_best_of_n_ratio", "ratio", "Questions that one of their n attempts solved: best@n", "maybe"),
    _gauge("validation/reward_mean", "validation_reward_mean", "reward", "Mean reward of the attempts", "maybe"),
    _gauge("validation/response_tokens_mean", "validation_response_tokens_mean", "tokens", "Mean length of an attempt", "maybe"),
    _gauge("validation/truncated_fraction", "validation_truncated_ratio", "ratio", "Attempts cut at the length limit", "maybe"),
    _gauge("validation/format_ok_fraction", "validation_format_ok_ratio", "ratio", "Attempts from which an answer could be extracted", "maybe"),
    _counter("validation/attempts", "validation_attempts", "attempts", "Attempts sampled for validation"),
    _counter("validation/dropped_attempts", "validation_dropped_attempts", "attempts", "Of these, lost to infrastructure"),
    # What a group offers the teacher.
    _gauge("groups/with_solution_fraction", "groups_with_solution_ratio", "ratio", "Attempts whose teacher prompt holds a successful sibling"),
    _gauge("groups/with_feedback_fraction", "groups_with_feedback_ratio", "ratio", "Attempts whose teacher prompt holds environment feedback"),
    _gauge("groups/with_neither_fraction", "groups_with_neither_ratio", "ratio", "Attempts without any teacher prompt: masked from distillation"),
    _gauge("groups/mixed_fraction", "groups_mixed_ratio", "ratio", "Groups with both successes and failures"),
    # The optimiser step.
    _gauge("train/loss", "train_loss", "loss", "Loss of the step, over trained tokens", "stepped"),
    _gauge("train/distill_loss", "train_distill_loss", "nats/token", "Its distillation part", "maybe"),
    _gauge("train/policy_loss", "train_policy_loss", "loss", "Its policy-gradient part", "maybe"),
    _gauge("train/anchor_kl", "train_anchor_kl", "nats/token", "KL of the policy to the frozen reference that anchors it", "maybe"),
    _gauge("train/grad_norm", "train_grad_norm", "norm", "Gradient norm before clipping", "stepped"),
    _gauge("train/learning_rate", "train_learning_rate", "1", "Learning rate of the step", "stepped"),
    _counter("train/tokens", "train_tokens", "tokens", "Response tokens with a weight in the loss"),
    _gauge("train/tokens_per_s", "", "tokens/s", "Trained tokens by the seconds of the whole step"),
    Metric("train/skipped_steps", "", "steps", "Optimiser steps not taken: nothing in their attempts could be learnt from", kind="counter"),
    _counter("skipped/no_attempts", "train_skipped_steps", "steps", "Of these: every attempt was lost", reason="no_attempts"),
    _counter("skipped/no_teacher", "train_skipped_steps", "steps", "Of these: no attempt had a teacher prompt", reason="no_teacher"),
    _counter("skipped/no_advantage", "train_skipped_steps", "steps", "Of these: the attempts of each group were rewarded alike", reason="no_advantage"),
    _counter("skipped/no_signal", "train_skipped_steps", "steps", "Of these: neither a teacher prompt nor an advantage, where the objective has both", reason="no_signal"),
    _counter("train/flops", "train_flops", "FLOPs", "Floating-point operations of the model in the passes of teacher and student (weights/flops.py), of all ranks"),
    _gauge("train/num_micro_batches", "train_micro_batches", "micro-batches", "Micro-batches of each rank", "stepped"),
    # Early signs of a collapse (objectives/health.py).
    _counter("collapse/teacher", "collapse_signs", "steps", "Steps after which the teacher found successful attempts less likely than the student", sign="teacher"),
    _counter("collapse/prompt", "collapse_signs", "steps", "Steps whose diagnostics found that the teacher's prompt does not help", sign="prompt"),
    _counter("collapse/success", "collapse_signs", "steps", "Steps after which the success rate was far below that of the first", sign="success"),
    _counter("collapse/entropy", "collapse_signs", "steps", "Steps after which the student's entropy was far below that of the first", sign="entropy"),
    _counter("collapse/length", "collapse_signs", "steps", "Steps after which responses were far shorter than at first, without more success", sign="length"),
    # Does the teacher know better?
    _gauge("teacher/kl_mean", "teacher_kl_mean", "nats/token", "Divergence between student and teacher", "maybe"),
    _gauge("teacher/kl_top_tenth_share", "teacher_kl_top_tenth_ratio", "ratio", "Share of the divergence that sits on the tenth of tokens where it is largest (mean over micro-batches)", "maybe"),
    _gauge("teacher/kl_first_third", "teacher_kl_by_third", "nats/token", "Divergence in the first third of each attempt", "maybe", third="first"),
    _gauge("teacher/kl_middle_third", "teacher_kl_by_third", "nats/token", "Divergence in the middle third of each attempt", "maybe", third="middle"),
    _gauge("teacher/kl_last_third", "teacher_kl_by_third", "nats/token", "Divergence in the last third of each attempt", "maybe", third="last"),
    _gauge("teacher/gain_failed", "teacher_gain", "nats/token", "Mean log q - log pi of the sampled tokens of failed attempts; below 0: the teacher knows better; above: it copies the failure", "maybe", attempts="failed"),
    _gauge("teacher/gain_success", "teacher_gain", "nats/token", "The same on successful attempts; above 0: the teacher knows better", "maybe", attempts="solved"),
    _gauge("teacher/entropy", "entropy", "nats/token", "Entropy of the teacher's distribution", "maybe", role="teacher"),
    _gauge("student/entropy", "entropy", "nats/token", "Entropy of the student's; a fall to 0 is a collapse", "stepped", role="student"),
    _gauge("student/top_k_mass", "top_k_mass_ratio", "ratio", "Student probability on its own top-K tokens; the rest is in the tail bucket", "maybe", role="student"),
    _gauge("teacher/top_k_mass", "top_k_mass_ratio", "ratio", "Teacher probability on the student's top-K tokens; the rest is in the tail bucket", "maybe", role="teacher"),
    _gauge("teacher/top_k_overlap", "teacher_top_k_overlap_ratio", "ratio", "Share of the student's top-K that is in the teacher's", "maybe"),
    _gauge("teacher/prompt_success", "teacher_prompt_success_ratio", "ratio", "Success of answers sampled from the teacher prompt; not above the student's: the prompt does not help", "maybe"),
    _gauge("teacher/null_kl", "teacher_null_kl", "nats/token", "Divergence to a teacher that saw the template without content: the shift of the wording alone", "maybe"),
    _gauge("teacher/ema_distance", "teacher_ema_distance_ratio", "ratio", "L2 distance of teacher and student weights by the L2 norm of the student's", "maybe"),
    _gauge("teacher/cut_tokens_mean", "teacher_cut_tokens_mean", "tokens", "Tokens cut from feedback and solution so that the teacher prompt fits", "maybe"),
    # Off-policy corrections.
    _gauge("importance/weight_mean", "importance_weight_mean", "1", "Mean truncated weight trainer / rollout engine; far from 1: their log-probs differ", "stepped"),
    _gauge("importance/effective_fraction", "importance_effective_ratio", "ratio", "Effective sample size of the weights by the number of tokens; 1 when they are all equal", "maybe"),
    _gauge("importance/log_prob_gap", "importance_log_prob_gap", "nats/token", "Mean distance of the trainer's and the rollout engine's log-probs of the sampled tokens", "maybe"),
    _gauge("drift/fp8_gap", "drift_fp8_gap", "nats/token", "Mean distance of the trainer's log-probs in FP8 and in bf16, on a micro-batch a rank", "maybe"),
    _counter("drift/fallbacks", "drift_fallbacks", "parts", "Engines or trainer that went from FP8 to bf16 since log-probs drifted apart"),
    _gauge("importance/clipped_fraction", "importance_clipped_ratio", "ratio", "Tokens whose weight was truncated", "stepped"),
    _gauge("ratio/clipped_fraction", "ratio_clipped_ratio", "ratio", "Tokens whose ratio pi_now / pi_old was clipped", "maybe"),
    _gauge("policy/version", "policy_version", "version", "Policy version that the engines serve after the step"),
    # Where the time goes.
    _phase("rollout", "Sampling the attempts"),
    _phase("verify", "Judging them, summed over the attempts; it overlaps with sampling"),
    _phase("teacher", "Teacher pass, weight swap included", "maybe"),
    _phase("student", "Student forward and backward"),
    _phase("optimizer", "Gradient reduction, clipping and the optimiser's step"),
    _phase("publish", "Bringing the new weights to the engines"),
    _phase("validation", "Sampling and judging at held-out questions", "maybe"),
    _phase("checkpoint", "What the checkpoint before the step kept it waiting: the copy of the state, or the whole writing (run.checkpoint_in_background)", "maybe"),
    Metric("time/step_s", "sdpo_step_seconds", "s", "The whole step", kind="histogram", buckets=_STEP_BUCKETS_S),
    # Is one rank slower, or fuller, than the others? Gathered once a step; no series is made per rank.
    *_of_ranks("student_s", "rank_student_seconds", "s", "Seconds of the student's passes before gradients are reduced: what a rank works, not what it waits for its data-parallel peers"),
    _gauge("ranks/slowest", "rank_slowest", "rank", "The rank with the most of them", "stepped"),
    *_of_ranks("sample_bytes", "rank_sample_bytes", "bytes", "Samples that a rank holds for the step: its data-parallel rank's share alone"),
    *_of_ranks("memory_bytes", "rank_memory_bytes", "bytes", "The most memory that a rank has held: of its device, or of its process on a CPU"),
    # What it costs and what went wrong.
    _gauge("memory/rank0_bytes", "memory_bytes", "bytes", "Memory of the rank 0 process", of="rank0"),
    _gauge("memory/all_bytes", "memory_bytes", "bytes", "Memory of all processes of the run on this machine, shared pages counted once where the system tells", of="all"),
    _counter("worker/restarts", "worker_restarts", "restarts", "Rollout workers restarted"),
    _counter("engine/restarts", "engine_restarts", "restarts", "Inference engines restarted"),
    Metric("verify/infrastructure_failures", "", "failures", "Verifications that infrastructure failed, before retries", kind="counter"),
    _counter(MISMATCHES, "observability_metric_mismatches", "keys", "Reported keys that are not declared, and declared ones not reported: a bug to tell us"),
)
# fmt: on

BY_KEY: Mapping[str, Metric] = {metric.key: metric for metric in METRICS}


def reconcile(
    values: Mapping[str, float],
    *,
    strict: bool | None = None,
    warn: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Completes one step's values to exactly the declared keys, in declared order.

    Args:
        values: What the parts of the step reported.
        strict: Raise on an unknown or missing key; None reads the environment (tests set it).
        warn: Called once for each mismatch when not strict.

    Returns:
        A new dict; absent gauges and histograms are NaN, absent counters 0. Unknown keys are left
        out, and both kinds of mismatch are added to the counter `MISMATCHES`.

    Raises:
        UndeclaredMetric: In strict mode; the message names every key, and the nearest declared one.
    """
    strict = os.environ.get(STRICT_VARIABLE) == "1" if strict is None else strict
    faults = [_unknown(key) for key in values if key not in BY_KEY]
    faults += [
        f"metric {metric.key!r} is declared but was not reported in this step"
        for metric in METRICS
        if metric.key not in values and _is_due(metric, values)
    ]
    if faults and strict:
        raise UndeclaredMetric("; ".join(faults))
    if warn is not None:
        for fault in faults:
            warn(fault)
    complete = {
        key: float(values.get(key, 0.0 if metric.kind == "counter" else math.nan))
        for key, metric in BY_KEY.items()
    }
    complete[MISMATCHES] += len(faults)
    return complete


def _is_due(metric: Metric, values: Mapping[str, float]) -> bool:
    """Whether a report of this step must hold `metric`."""
    if metric.kind == "counter" or metric.presence == "maybe":
        return False
    return metric.presence == "always" or not values.get("train/skipped_steps")


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, BY_KEY, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "declare it in observability/metrics.py"
    return f"metric {key!r} is not declared: {hint}"
