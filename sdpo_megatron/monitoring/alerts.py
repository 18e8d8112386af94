"""When somebody should look at a run, and why. docs/runbooks/ says what to do then.

An absent series is no reading of 0: what is not known before the first step raises nothing, and one
alert of its own says when the first step does not come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sdpo_megatron.judging.service import metrics as service
from sdpo_megatron.monitoring.promql import TARGET, count, joined, of_step, select, series_of, total
from sdpo_megatron.observability import series
from sdpo_megatron.observability.metrics import BY_KEY

__all__ = ["ALERTS", "Alert"]

Severity = Literal["critical", "warning", "info"]
_BY_RUN = ", ".join(TARGET)
_STEPS = series_of(BY_KEY["time/step_s"])
_IDLE = select(series.PHASE_INFO, phase="idle")


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alerting rule.

    Attributes:
        expr: PromQL; any result fires.
        lasting: How long before it does, as Prometheus writes durations.
        severity: critical: work is being lost, look now. warning: look today. info: worth knowing.
        summary: One line; {{ $labels.run }} and {{ $value }} are filled in.
        description: What was seen and what it means; the runbook has what to do.
    """

    name: str
    expr: str
    lasting: str
    severity: Severity
    summary: str
    description: str


def _sign(name: str) -> str:
    return f"increase({of_step(f'collapse/{name}')}[1h]) > 0"


def _collapse(name: str, title: str, severity: Severity, description: str) -> Alert:
    return Alert(
        name=f"Sdpo{title}", expr=_sign(name), lasting="0m", severity=severity,
        summary=f"{{{{ $labels.run }}}}: {description.partition(';')[0].lower()}",
        description=f"{description}. The run's own rule said so (the log has the numbers).",
    )  # fmt: skip


_PROGRESS = (
    Alert(
        name="SdpoHangBeforeFirstStep",
        expr=f"(time() - {series.PHASE_START_TIME.name} > 1800) "
        f"unless {series.LAST_STEP_TIME.name} unless on ({_BY_RUN}) {_IDLE}",
        lasting="5m",
        severity="critical",
        summary="{{ $labels.run }}: no step yet, and the same phase for half an hour",
        description="The trainer is up but has not finished a step, and it has been in one phase "
        "for {{ $value | humanizeDuration }}. Engines that do not come up, a model that does not "
        "load, or a first rollout that hangs.",
    ),
    Alert(
        name="SdpoNoProgress",
        expr=f"(time() - {series.LAST_STEP_TIME.name} > 900) "
        f"and (time() - {series.LAST_STEP_TIME.name} > 5 * {total(_STEPS)} / {count(_STEPS)}) "
        f"and ({series.STEP.name} < {series.STEPS_TARGET.name}) unless on ({_BY_RUN}) {_IDLE}",
        lasting="5m",
        severity="critical",
        summary="{{ $labels.run }}: no step for {{ $value | humanizeDuration }}",
        description="The last step ended {{ $value | humanizeDuration }} ago, more than 15 minutes "
        "and five times a mean step. The phase on the overview says what it waits for.",
    ),
    Alert(
        name="SdpoTargetDown",
        expr='up{component=~"trainer|engine|verifier"} == 0',
        lasting="5m",
        severity="warning",
        summary="{{ $labels.run }}: a {{ $labels.component }} cannot be scraped",
        description="{{ $labels.instance }} exists but does not answer Prometheus. What it does is "
        "not seen, by the other alerts either.",
    ),
)  # fmt: skip

_LEARNING = (
    _collapse("success", "SuccessCollapse", "critical", "The success rate fell below half of what it was at first"),
    _collapse("entropy", "EntropyCollapse", "critical", "The student's entropy fell below a fifth of what it was at first; attempts of a group become alike"),
    _collapse("length", "LengthCollapse", "critical", "Responses shrank below a quarter of what they were at first; success did not rise, so the policy may be giving up"),
    _collapse("teacher", "TeacherMisleads", "warning", "The teacher finds successful attempts less likely than the student does; success follows within a few steps"),
    _collapse("prompt", "TeacherPromptDoesNotHelp", "warning", "Answers under the teacher's prompt succeed no more often than the student's own; distilling it may destroy the policy"),
    Alert(
        name="SdpoGradientSpike",
        expr=f"({of_step('train/grad_norm')} > 10 * quantile_over_time(0.5, {of_step('train/grad_norm')}[6h])) "
        f"and {count(_STEPS)} >= 10",
        lasting="0m",
        severity="warning",
        summary="{{ $labels.run }}: gradient norm {{ $value | humanize }}, ten times its median",
        description="The norm before clipping is more than ten times the median of six hours. Once "
        "is an outlier that clipping bounded; again and again is a learning rate that is too high.",
    ),
    Alert(
        name="SdpoLogProbsDrift",
        expr=f"{of_step('importance/log_prob_gap')} > 0.5 or {of_step('drift/fp8_gap')} > 0.5",
        lasting="10m",
        severity="warning",
        summary="{{ $labels.run }}: log-probs of the same weights are {{ $value | humanize }} nats a token apart",
        description="Trainer and engines, or the trainer in FP8 and in bf16, disagree about tokens "
        "that they should agree on: other weights, another dtype, or a recipe that does not suit "
        "this model any more.",
    ),
    Alert(
        name="SdpoStepsSkipped",
        expr=f"sum by ({_BY_RUN}) (increase({series_of(BY_KEY['skipped/no_teacher']).name}[2h])) "
        f"> 0.5 * sum by ({_BY_RUN}) (increase({count(_STEPS)}[2h]))",
        lasting="10m",
        severity="warning",
        summary="{{ $labels.run }}: more than half of the optimiser steps are skipped",
        description="Nothing can be learnt from most batches. The label `reason` of "
        f"{series_of(BY_KEY['skipped/no_teacher']).name} says why.",
    ),
)  # fmt: skip

_ENGINES = (
    Alert(
        name="SdpoSwapFailures",
        expr=f"increase({series.SWAP_FAILURES.name}[30m]) > 0",
        lasting="0m",
        severity="warning",
        summary="{{ $labels.run }}: {{ $labels.engine }} did not take a hot swap",
        description="The engine did not load new weights or its checksum differed. It was taken out "
        "and comes back at the current version; sampling goes on with the others.",
    ),
    Alert(
        name="SdpoEngineStale",
        expr=f"({joined(series.ENGINE_POLICY_VERSION.name, '<', of_step('policy/version'))}) "
        f"and {series.ENGINE_UP.name} == 1",
        lasting="10m",
        severity="critical",
        summary="{{ $labels.run }}: {{ $labels.engine }} serves the old policy version {{ $value }}",
        description="An engine that takes requests serves weights older than the trainer's for ten "
        "minutes. Its attempts would be off-policy.",
    ),
    Alert(
        name="SdpoEngineQuarantined",
        expr=f"{series.ENGINE_UP.name} == 0 and on ({_BY_RUN}) {series.LAST_STEP_TIME.name}",
        lasting="10m",
        severity="warning",
        summary="{{ $labels.run }}: {{ $labels.engine }} has been out of the pool for ten minutes",
        description="It died, hung, or failed a swap, and has not come back. Steps take longer; with "
        "no engine left the run ends after rollout.engine.start_timeout_s.",
    ),
    Alert(
        name="SdpoEngineFlapping",
        expr=f"sum by ({_BY_RUN}, engine) (increase({series.ENGINE_EXITS.name}[1h])) > 3",
        lasting="0m",
        severity="warning",
        summary="{{ $labels.run }}: {{ $labels.engine }} left the pool {{ $value | humanize }} times in an hour",
        description="It comes back and goes again; the label `reason` says whether it dies, hangs or "
        "fails its swaps.",
    ),
    Alert(
        name="SdpoWorkerFlapping",
        expr=f"sum by ({_BY_RUN}, worker) (increase({series.WORKER_EXITS.name}[1h])) > 2",
        lasting="0m",
        severity="warning",
        summary="{{ $labels.run }}: {{ $labels.worker }} ended by itself {{ $value | humanize }} times in an hour",
        description="Each time the attempts that it was making are made again. After "
        "rollout.workers.max_restarts the run ends.",
    ),
)  # fmt: skip

_VERIFIERS = (
    Alert(
        name="SdpoVerifierSaturated",
        expr=f"({service.QUEUE_ITEMS.name} / {service.QUEUE_LIMIT.name} > 0.9) "
        f"or (rate({select(service.REQUESTS, code='429')}[10m]) > 0.1)",
        lasting="10m",
        severity="warning",
        summary="{{ $labels.run }}: verifier {{ $labels.instance }} cannot keep up",
        description="Its queue is nearly full, or it refuses requests (429), for ten minutes. Steps "
        "wait for verdicts.",
    ),
    Alert(
        name="SdpoSandboxRefused",
        expr=f"increase({service.SANDBOX_REFUSALS.name}[15m]) > 0",
        lasting="0m",
        severity="critical",
        summary="{{ $labels.run }}: the sandbox of {{ $labels.instance }} lacks isolation layers",
        description="Programs are not run there: fewer layers work than sandbox.minimum_layers asks "
        "for. Attempts go to other verifiers, or are dropped.",
    ),
    Alert(
        name="SdpoInfrastructureFailures",
        expr=f"sum by ({_BY_RUN}) (increase({series.VERIFY_INFRASTRUCTURE_FAILURES.name}[30m])) "
        f"> 0.05 * sum by ({_BY_RUN}) (increase({series.ATTEMPTS.name}[30m])) > 0",
        lasting="10m",
        severity="warning",
        summary="{{ $labels.run }}: infrastructure fails more than 5 % of the verifications",
        description="They are tried again and never count as wrong answers, but they cost time, and "
        "after the last try the attempt is dropped.",
    ),
    Alert(
        name="SdpoAttemptsDropped",
        expr=f"increase({of_step('rollout/dropped_attempts')}[1h]) "
        f"> 0.02 * increase({of_step('rollout/attempts')}[1h])",
        lasting="0m",
        severity="warning",
        summary="{{ $labels.run }}: more than 2 % of the attempts are dropped",
        description="No verifier could judge them: they are neither rewarded nor trained on. What is "
        "dropped may not be a fair sample of what was tried.",
    ),
)  # fmt: skip

_SAFETY = (
    Alert(
        name="SdpoCheckpointOld",
        expr=f"((time() - {series.CHECKPOINT_LAST_SUCCESS_TIME.name} > 6 * 3600) "
        f"or (time() - {series.RUN_START_TIME.name} > 6 * 3600 "
        f"unless {series.CHECKPOINT_LAST_SUCCESS_TIME.name})) unless on ({_BY_RUN}) {_IDLE}",
        lasting="5m",
        severity="warning",
        summary="{{ $labels.run }}: no checkpoint for {{ $value | humanizeDuration }}",
        description="A crash now loses everything since. Lower run.checkpoint_every, or see why "
        "checkpoints fail.",
    ),
    Alert(
        name="SdpoCheckpointFailed",
        expr=f"increase({series.CHECKPOINT_FAILURES.name}[1h]) > 0",
        lasting="0m",
        severity="critical",
        summary="{{ $labels.run }}: a checkpoint could not be written",
        description="Earlier checkpoints are untouched. A full disk, mostly.",
    ),
    Alert(
        name="SdpoMemoryHigh",
        expr=f"({of_step('memory/all_bytes')} > on ({_BY_RUN}, instance) 0.9 * {series.MEMORY_LIMIT_BYTES.name}) "
        f"or ({of_step('ranks/memory_bytes_max')} > on ({_BY_RUN}, instance) 0.95 * {series.DEVICE_MEMORY_BYTES.name})",
        lasting="0m",
        severity="warning",
        summary="{{ $labels.run }}: {{ $value | humanize1024 }}B of memory, close to its limit",
        description="The processes of the trainer's machine hold over 90 % of what they may, or a "
        "rank over 95 % of its device. The next long batch may end the run.",
    ),
    Alert(
        name="SdpoDiskFilling",
        expr=f"({series.RUN_VOLUME_FREE_BYTES.name} < 2 * {series.CHECKPOINT_BYTES.name}) "
        f"or (predict_linear({series.RUN_VOLUME_FREE_BYTES.name}[6h], 24 * 3600) < 0 "
        f"and time() - {series.RUN_START_TIME.name} > 3600)",
        lasting="10m",
        severity="critical",
        summary="{{ $labels.run }}: the run's volume has no room for two checkpoints, or will be full in a day",
        description="A full disk ends the run at the next checkpoint or step record.",
    ),
)  # fmt: skip

ALERTS: tuple[Alert, ...] = (*_PROGRESS, *_LEARNING, *_ENGINES, *_VERIFIERS, *_SAFETY)
