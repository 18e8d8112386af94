"""For every alert: what makes it fire, and what is near to it and does not.

Series are spelled as Prometheus stores them, apart from the declarations. They begin at time 0, a
value a minute, in promtool's notation: "3x5" stays at 3, "0+60x5" rises, "_x5" is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RUN = {"cluster": "c", "run": "r"}
POD = {**RUN, "instance": "i"}

Samples = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """`samples` by series, labels of `POD` added; `labels` are the alert's, its severity apart."""

    alert: str
    what: str
    at: str
    samples: Samples
    labels: Mapping[str, str] = field(default_factory=lambda: POD)
    fires: bool = True


def fires(alert: str, what: str, at: str, samples: Samples, **labels: str) -> Case:
    return Case(alert, what, at, samples, {**POD, **labels})


def of_run(alert: str, what: str, at: str, samples: Samples, **labels: str) -> Case:
    """The same of an alert that sums over the pods of a run."""
    return Case(alert, what, at, samples, {**RUN, **labels})


def silent(alert: str, what: str, at: str, samples: Samples) -> Case:
    return Case(alert, what, at, samples, fires=False)


STARTING = {  # as the page of a trainer is while engines start and the first rollout goes on
    "sdpo_run_start_timestamp_seconds": "0x300",
    "sdpo_phase_start_timestamp_seconds": "0+60x300",
    'sdpo_phase_info{phase="start"}': "1x300",
    "sdpo_step": "0x300",
    "sdpo_steps_target": "100x300",
    "sdpo_attempts_in_flight": "64x300",
    'sdpo_engine_up{engine="e"}': "0x300",
    'sdpo_engine_requests_in_flight{engine="e"}': "0x300",
    "sdpo_step_seconds_sum": "0x300",
    "sdpo_step_seconds_count": "0x300",
    "sdpo_rollout_attempts_total": "0x300",
    "sdpo_rollout_dropped_attempts_total": "0x300",
    'sdpo_attempts_total{finish="stop",solved="true"}': "0x300",
    'sdpo_verify_infrastructure_failures_total{where="local"}': "0x300",
    'sdpo_collapse_signs_total{sign="success"}': "0x300",
    'sdpo_collapse_signs_total{sign="entropy"}': "0x300",
    'sdpo_collapse_signs_total{sign="length"}': "0x300",
    'sdpo_collapse_signs_total{sign="teacher"}': "0x300",
    'sdpo_collapse_signs_total{sign="prompt"}': "0x300",
    'sdpo_train_skipped_steps_total{reason="no_teacher"}': "0x300",
    "sdpo_checkpoint_failures_total": "0x300",
    "sdpo_run_volume_free_bytes": "1000x300",
    "sdpo_memory_limit_bytes": "100x300",
    "sdpo_verifier_queue_items": "0x300",
    "sdpo_verifier_queue_limit_items": "100x300",
    "sdpo_verifier_sandbox_refusals_total": "0x300",
    'up{component="trainer"}': "1x300",
}
HUNG = {**STARTING, "sdpo_phase_start_timestamp_seconds": "0x300"}
STEPPING = {
    "sdpo_step": "10x60",
    "sdpo_steps_target": "100x60",
    "sdpo_last_step_timestamp_seconds": "60x60",
    "sdpo_step_seconds_sum": "300x60",
    "sdpo_step_seconds_count": "10x60",
}
ENGINE = {'sdpo_engine_up{engine="e"}': "1x60", "sdpo_policy_version": "4x60"}


def sign(name: str, values: str) -> Samples:
    return {f'sdpo_collapse_signs_total{{sign="{name}"}}': values}


def _signs() -> list[Case]:
    names = {
        "SdpoSuccessCollapse": "success", "SdpoEntropyCollapse": "entropy",
        "SdpoLengthCollapse": "length", "SdpoTeacherMisleads": "teacher",
        "SdpoTeacherPromptDoesNotHelp": "prompt",
    }  # fmt: skip
    cases = []
    for alert, name in names.items():
        other = "entropy" if name == "success" else "success"
        cases += [
            fires(alert, "the run saw it", "15m", sign(name, "0x10 1x20"), sign=name),
            silent(alert, "never seen", "30m", sign(name, "0x40")),
            silent(alert, "seen three hours ago", "200m", sign(name, "0x5 1x200")),
            silent(alert, "another sign", "15m", sign(other, "0x10 1x20")),
        ]
    return cases


CASES: tuple[Case, ...] = (
    fires("SdpoHangBeforeFirstStep", "hang before step 1", "40m", HUNG),
    silent("SdpoHangBeforeFirstStep", "before step 1, moving on", "40m", STARTING),
    silent("SdpoHangBeforeFirstStep", "half an hour is not over", "25m", HUNG),
    silent(
        "SdpoHangBeforeFirstStep", "there was a step", "40m",
        {**HUNG, "sdpo_last_step_timestamp_seconds": "_x20 1200x50"},
    ),
    silent("SdpoHangBeforeFirstStep", "done before any step", "40m",
           {**HUNG, 'sdpo_phase_info{phase="idle"}': "1x60"}),
    fires("SdpoNoProgress", "mean step of 30 s, none for 20 minutes", "23m", STEPPING),
    silent("SdpoNoProgress", "mean step of 10 minutes", "23m",
           {**STEPPING, "sdpo_step_seconds_sum": "6000x60"}),
    silent("SdpoNoProgress", "all steps done", "23m", {**STEPPING, "sdpo_step": "100x60"}),
    silent("SdpoNoProgress", "a step a minute", "50m",
           {**STEPPING, "sdpo_last_step_timestamp_seconds": "0+60x60"}),
    fires("SdpoTargetDown", "an engine does not answer", "7m", {'up{component="engine"}': "0x20"},
          component="engine"),
    silent("SdpoTargetDown", "it missed two scrapes", "7m",
           {'up{component="engine"}': "1 1 0 0 1x20"}),
    silent("SdpoTargetDown", "something else is down", "7m", {'up{component="grafana"}': "0x20"}),
    *_signs(),
    fires("SdpoLogProbsDrift", "trainer and engine", "20m",
          {"sdpo_importance_log_prob_gap": "0.02x5 0.8x60"}),
    fires("SdpoLogProbsDrift", "FP8 and bf16", "20m",
          {"sdpo_importance_log_prob_gap": "0.02x60", "sdpo_drift_fp8_gap": "0.7x60"}),
    silent("SdpoLogProbsDrift", "bf16 as it is", "20m",
           {"sdpo_importance_log_prob_gap": "0.03x60", "sdpo_drift_fp8_gap": "0.2x60"}),
    fires("SdpoGradientSpike", "fifty times the median", "31m",
          {"sdpo_train_grad_norm": "1x30 50x5", "sdpo_step_seconds_count": "30x40"}),
    silent("SdpoGradientSpike", "five times the median", "31m",
           {"sdpo_train_grad_norm": "1x30 5x5", "sdpo_step_seconds_count": "30x40"}),
    silent("SdpoGradientSpike", "the first steps", "31m",
           {"sdpo_train_grad_norm": "1x30 50x5", "sdpo_step_seconds_count": "4x40"}),
    of_run("SdpoStepsSkipped", "all are", "60m",
           {'sdpo_train_skipped_steps_total{reason="no_teacher"}': "0+1x90",
            "sdpo_step_seconds_count": "0+1x90"}),
    silent("SdpoStepsSkipped", "one of four is", "60m",
           {'sdpo_train_skipped_steps_total{reason="no_teacher"}': "0+1x90",
            "sdpo_step_seconds_count": "0+4x90"}),
    fires("SdpoSwapFailures", "one", "12m",
          {'sdpo_swap_failures_total{engine="e"}': "0x10 1x20"}, engine="e"),
    silent("SdpoSwapFailures", "one, two hours ago", "120m",
           {'sdpo_swap_failures_total{engine="e"}': "0x10 1x120"}),
    fires("SdpoEngineStale", "one version behind", "15m",
          {**ENGINE, 'sdpo_engine_policy_version{engine="e"}': "3x60"}, engine="e"),
    silent("SdpoEngineStale", "at the trainer's version", "15m",
           {**ENGINE, 'sdpo_engine_policy_version{engine="e"}': "4x60"}),
    silent("SdpoEngineStale", "behind for the minute of a swap", "15m",
           {**ENGINE, 'sdpo_engine_policy_version{engine="e"}': "4x12 3 4x50"}),
    silent("SdpoEngineStale", "behind, but out of the pool", "15m",
           {**ENGINE, 'sdpo_engine_policy_version{engine="e"}': "3x60",
            'sdpo_engine_up{engine="e"}': "0x60"}),
    fires("SdpoEngineQuarantined", "out for 15 minutes", "15m",
          {'sdpo_engine_up{engine="e"}': "0x60", "sdpo_last_step_timestamp_seconds": "1x60"},
          engine="e"),
    silent("SdpoEngineQuarantined", "engines still start", "15m",
           {'sdpo_engine_up{engine="e"}': "0x60"}),
    silent("SdpoEngineQuarantined", "back after five minutes", "15m",
           {'sdpo_engine_up{engine="e"}': "0x5 1x60", "sdpo_last_step_timestamp_seconds": "1x60"}),
    of_run("SdpoEngineFlapping", "every ten minutes", "60m",
           {'sdpo_engine_exits_total{engine="e",reason="died"}': "0x9 1x9 2x9 3x9 4x9 5x20"},
           engine="e"),
    silent("SdpoEngineFlapping", "once", "60m",
           {'sdpo_engine_exits_total{engine="e",reason="died"}': "0x9 1x90"}),
    of_run("SdpoWorkerFlapping", "every ten minutes", "60m",
           {'sdpo_worker_exits_total{worker="worker-0"}': "0x9 1x9 2x9 3x9 4x20"},
           worker="worker-0"),
    silent("SdpoWorkerFlapping", "once", "60m",
           {'sdpo_worker_exits_total{worker="worker-0"}': "0x9 1x90"}),
    fires("SdpoVerifierSaturated", "its queue is full", "15m",
          {"sdpo_verifier_queue_items": "95x20", "sdpo_verifier_queue_limit_items": "100x20"}),
    fires("SdpoVerifierSaturated", "a refusal a second", "25m",
          {'sdpo_verifier_requests_total{code="429"}': "0+60x30"}, code="429"),
    silent("SdpoVerifierSaturated", "half full", "15m",
           {"sdpo_verifier_queue_items": "50x20", "sdpo_verifier_queue_limit_items": "100x20"}),
    silent("SdpoVerifierSaturated", "verdicts are no refusals", "25m",
           {'sdpo_verifier_requests_total{code="200"}': "0+600x30"}),
    fires("SdpoSandboxRefused", "one item", "7m",
          {"sdpo_verifier_sandbox_refusals_total": "0x5 1x20"}),
    silent("SdpoSandboxRefused", "none", "7m", {"sdpo_verifier_sandbox_refusals_total": "0x20"}),
    of_run("SdpoInfrastructureFailures", "one of ten", "45m",
           {'sdpo_verify_infrastructure_failures_total{where="local"}': "0+1x60",
            'sdpo_attempts_total{finish="stop",solved="true"}': "0+10x60"}),
    silent("SdpoInfrastructureFailures", "one of a hundred", "45m",
           {'sdpo_verify_infrastructure_failures_total{where="local"}': "0+1x60",
            'sdpo_attempts_total{finish="stop",solved="true"}': "0+100x60"}),
    fires("SdpoAttemptsDropped", "one of ten", "60m",
          {"sdpo_rollout_dropped_attempts_total": "0+1x60",
           "sdpo_rollout_attempts_total": "0+10x60"}),
    silent("SdpoAttemptsDropped", "one of a hundred", "60m",
           {"sdpo_rollout_dropped_attempts_total": "0+1x60",
            "sdpo_rollout_attempts_total": "0+100x60"}),
    fires("SdpoCheckpointOld", "seven hours", "420m",
          {"sdpo_checkpoint_last_success_timestamp_seconds": "60x450"}),
    fires("SdpoCheckpointOld", "none in seven hours", "420m",
          {"sdpo_run_start_timestamp_seconds": "0x450"}),
    silent("SdpoCheckpointOld", "one an hour ago", "420m",
           {"sdpo_run_start_timestamp_seconds": "0x450",
            "sdpo_checkpoint_last_success_timestamp_seconds": "_x100 21600x350"}),
    silent("SdpoCheckpointOld", "the run is over", "420m",
           {"sdpo_checkpoint_last_success_timestamp_seconds": "60x450",
            'sdpo_phase_info{phase="idle"}': "1x450"}),
    fires("SdpoCheckpointFailed", "one", "12m", {"sdpo_checkpoint_failures_total": "0x10 1x20"}),
    silent("SdpoCheckpointFailed", "none", "12m", {"sdpo_checkpoint_failures_total": "0x30"}),
    fires("SdpoMemoryHigh", "of the machine", "5m",
          {'sdpo_memory_bytes{of="all"}': "95x10", "sdpo_memory_limit_bytes": "100x10"}),
    fires("SdpoMemoryHigh", "of a device", "5m",
          {'sdpo_rank_memory_bytes{stat="max"}': "96x10", "sdpo_device_memory_bytes": "100x10"}),
    silent("SdpoMemoryHigh", "half of either", "5m",
           {'sdpo_memory_bytes{of="all"}': "50x10", "sdpo_memory_limit_bytes": "100x10",
            'sdpo_rank_memory_bytes{stat="max"}': "50x10", "sdpo_device_memory_bytes": "100x10"}),
    silent("SdpoMemoryHigh", "a process on a CPU has no device", "5m",
           {'sdpo_rank_memory_bytes{stat="max"}': "96x10"}),
    fires("SdpoDiskFilling", "no room for two checkpoints", "15m",
          {"sdpo_run_volume_free_bytes": "15x20", "sdpo_checkpoint_bytes": "8x20"}),
    fires("SdpoDiskFilling", "full in ten hours", "300m",
          {"sdpo_run_volume_free_bytes": "900-1x400",
           "sdpo_run_start_timestamp_seconds": "0x400"}),
    silent("SdpoDiskFilling", "room for three", "15m",
           {"sdpo_run_volume_free_bytes": "24x20", "sdpo_checkpoint_bytes": "8x20"}),
    silent("SdpoDiskFilling", "a run's first hour writes much", "30m",
           {"sdpo_run_volume_free_bytes": "900-1x400",
            "sdpo_run_start_timestamp_seconds": "0x400"}),
)  # fmt: skip
