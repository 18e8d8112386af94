"""Is it moving, learning, safe, and what does it cost?"""

from __future__ import annotations

from sdpo_megatron.monitoring.dashboards.shared import (
    HOURS,
    MEMORY,
    PHASES,
    RATE,
    SUCCESS,
    UTILISATION,
    rate,
)
from sdpo_megatron.monitoring.panel import Curve, Dashboard, Panel, Row, step
from sdpo_megatron.monitoring.promql import THIS_RUN, mean, select, series_of
from sdpo_megatron.observability import series
from sdpo_megatron.observability.metrics import BY_KEY

_STEP_SECONDS = series_of(BY_KEY["time/step_s"])

_MOVING = Row(
    "Is it moving?",
    (
        Panel(
            title="Steps", help="Steps done, and how many there will be.", unit="items", kind="stat",
            curves=(
                Curve(select(series.STEP, THIS_RUN), "done"),
                Curve(select(series.STEPS_TARGET, THIS_RUN), "of"),
            ), width=4,
        ),
        Panel(
            title="Since the last step",
            help="Seconds since a step ended. Empty before the first.", unit="s", kind="stat",
            curves=(Curve(f"time() - {select(series.LAST_STEP_TIME, THIS_RUN)}", ""),),
            limits=((900, "yellow"), (3600, "red")), width=4,
        ),
        Panel(
            title="In this phase",
            help="What rank 0 does now, and for how long: the first place to look at when a run hangs.",
            unit="s", kind="stat",
            curves=(Curve(
                f"(time() - {select(series.PHASE_START_TIME, THIS_RUN)}) "
                f"* on (cluster, run) group_left (phase) {select(series.PHASE_INFO, THIS_RUN)}",
                "{{phase}}",
            ),),
            limits=((1800, "yellow"), (3600, "red")), width=4,
        ),
        Panel(
            title="Alerts that fire",
            help="Of this run, now; each has a page in docs/runbooks.", unit="1", kind="table",
            curves=(Curve(f'ALERTS{{alertstate="firing",{THIS_RUN}}}', ""),), width=12,
            columns=(("alertname", "Alert"), ("severity", "Severity"), ("engine", "Engine"), ("instance", "Target")),
        ),
        PHASES,
        Panel(
            title="A step", help="Seconds of a whole step.", unit="s", bounds=(0, None),
            curves=(Curve(mean(_STEP_SECONDS, RATE, THIS_RUN), "mean", "time/step_s"),),
        ),
        Panel(
            title="Attempts in flight", help="Attempts of the step that are not judged yet: falls to 0 in every rollout.",
            unit="items", bounds=(0, None),
            curves=(Curve(select(series.ATTEMPTS_IN_FLIGHT, THIS_RUN), "in flight"),),
        ),
    ),
)  # fmt: skip
_LEARNING = Row(
    "Is it learning?",
    (
        SUCCESS,
        Panel(
            title="Reward", help="Mean reward of the attempts.", unit="reward",
            curves=(step("rollout/reward_mean", "reward"),),
        ),
        Panel(
            title="Loss", help="Of the optimiser step, over trained tokens.", unit="1",
            curves=(step("train/loss", "loss"),),
        ),
    ),
)  # fmt: skip
_SAFE = Row(
    "Is it safe?",
    (
        Panel(
            title="Since the last checkpoint", help="What a crash would lose. Empty before the first of this process.",
            unit="s", kind="stat",
            curves=(Curve(f"time() - {select(series.CHECKPOINT_LAST_SUCCESS_TIME, THIS_RUN)}", ""),),
            limits=((3 * 3600, "yellow"), (6 * 3600, "red")), width=6,
        ),
        Panel(
            title="Its step", help="Step of the newest whole checkpoint.", unit="items", kind="stat",
            curves=(Curve(select(series.CHECKPOINT_STEP, THIS_RUN), ""),), width=6,
        ),
        Panel(
            title="Checkpoints that failed", help="Since this process began.", unit="items", kind="stat",
            curves=(Curve(select(series.CHECKPOINT_FAILURES, THIS_RUN), ""),),
            limits=((1, "red"),), width=6,
        ),
        Panel(
            title="Free on the run's volume", help="A checkpoint needs its size; two should fit.",
            unit="bytes", kind="stat", below="red",
            curves=(Curve(select(series.RUN_VOLUME_FREE_BYTES, THIS_RUN), "free"),
                    Curve(select(series.CHECKPOINT_BYTES, THIS_RUN), "a checkpoint")),
            limits=((2**34, "yellow"), (2**36, "green")), width=6,
        ),
        MEMORY,
        Panel(
            title="What went wrong", help="Since the last point: engines that left, swaps and verifications that failed, attempts that were dropped.",
            unit="items", bounds=(0, None), width=16,
            curves=(
                Curve(f"sum(increase({select(series.ENGINE_EXITS, THIS_RUN)}[{RATE}]))", "engines out"),
                step("engine/restarts", "engines restarted"),
                Curve(f"sum(increase({select(series.SWAP_FAILURES, THIS_RUN)}[{RATE}]))", "swaps failed"),
                Curve(f"sum(increase({select(series.VERIFY_INFRASTRUCTURE_FAILURES, THIS_RUN)}[{RATE}]))",
                      "verifications failed", "verify/infrastructure_failures"),
                step("rollout/dropped_attempts", "attempts dropped"),
            ),
        ),
    ),
)  # fmt: skip
_COST = Row(
    "What does it cost?",
    (
        UTILISATION,
        HOURS,
        Panel(
            title="Tokens", help="Sampled and trained on, a second of the whole run.", unit="tokens/s", bounds=(0, None),
            curves=(
                Curve(rate(select(series.ROLLOUT_TOKENS, THIS_RUN)), "sampled"),
                Curve(rate(select(series_of(BY_KEY["train/tokens"]), THIS_RUN)), "trained", "train/tokens_per_s"),
            ),
        ),
        Panel(
            title="What runs", help="Model, task and versions.", unit="1", kind="table", width=16,
            curves=(Curve(select(series.RUN_INFO, THIS_RUN), ""), Curve(select(series.BUILD_INFO, THIS_RUN), "")),
            columns=(
                ("run_name", "Run"), ("model", "Model"), ("task", "Task"), ("version", "Version"),
                ("commit", "Commit"), ("torch", "torch"), ("megatron_core", "Megatron-core"),
            ),
        ),
        Panel(
            title="Devices", help="How many of which kind do what.", unit="items", kind="table", width=8,
            curves=(Curve(select(series.DEVICES, THIS_RUN), ""),),
            columns=(("role", "Role"), ("model", "Kind"), ("Value", "Devices")),
        ),
    ),
)  # fmt: skip

OVERVIEW = Dashboard(
    uid="sdpo-overview", title="SDPO / Overview",
    help="One run: is it moving, learning and safe, and what does it cost?",
    rows=(_MOVING, _LEARNING, _SAFE, _COST),
)  # fmt: skip
