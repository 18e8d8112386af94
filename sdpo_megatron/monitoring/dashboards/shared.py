"""Panels that more than one dashboard shows."""

from __future__ import annotations

from sdpo_megatron.monitoring.panel import Curve, Panel, step
from sdpo_megatron.monitoring.promql import THIS_RUN, select
from sdpo_megatron.monitoring.recording import DEVICE_HOURS, MFU
from sdpo_megatron.observability import series

RATE = "$__rate_interval"


def rate(selector: str) -> str:
    """Its rise a second."""
    return f"rate({selector}[{RATE}])"


SUCCESS = Panel(
    title="Success rate",
    help="Share of the attempts that solved their question, on the questions of the step.",
    unit="ratio",
    bounds=(0, 1),
    curves=(step("rollout/success_rate", "success"),),
)
PHASES = Panel(
    title="Where the time goes",
    help="Share of rank 0's wall time by phase; the phases add up to 1, `other` and `idle` included.",
    unit="ratio",
    stacked=True,
    bounds=(0, 1),
    curves=(Curve(rate(select(series.PHASE_SECONDS, THIS_RUN)), "{{phase}}"),),
)
UTILISATION = Panel(
    title="Model FLOPs utilisation",
    help="Operations of the model by the peak of the trainer's devices, over an hour, sampling "
    "included. Empty where the device's peak is not known.",
    unit="ratio",
    curves=(Curve(f"{MFU.name}{{{THIS_RUN}}}", "utilisation"),),
)
HOURS = Panel(
    title="Device hours of the last day",
    help="Hours of devices while a trainer was alive, by what they do.",
    unit="items",
    kind="stat",
    curves=(Curve(f"{DEVICE_HOURS.name}{{{THIS_RUN}}}", "{{role}}: {{model}}"),),
)
MEMORY = Panel(
    title="Memory of the trainer's machine",
    help="All processes of the run on the machine of rank 0, and what they may hold.",
    unit="bytes",
    bounds=(0, None),
    curves=(
        step("memory/all_bytes", "all processes"),
        step("memory/rank0_bytes", "rank 0"),
        Curve(select(series.MEMORY_LIMIT_BYTES, THIS_RUN), "limit"),
    ),
)
