"""Recorded series: what is costly to ask, or asked in many places. Names: level:metric:operation.

Model FLOPs utilisation needs the peak of a device, which no program exports: it is a table here,
dense bfloat16 of the makers' data sheets. A model that is not in it has no utilisation, rather than
a wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sdpo_megatron.monitoring.promql import TARGET, of_step, select
from sdpo_megatron.observability import series

__all__ = ["DEVICE_HOURS", "MFU", "PEAK", "RECORDED", "RUN_FLOPS", "Recorded"]

PEAK_FLOPS = {
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}
"""Operations a second by the model's name as CUDA tells it."""
_RUN = ", ".join(TARGET)
_WINDOW = "1h"  # a step may take many minutes, and counters of steps rise at their ends


@dataclass(frozen=True)
class Recorded:
    """One recording rule; `labels` are added to what it records."""

    name: str
    expr: str
    help: str
    labels: dict[str, str] = field(default_factory=dict)


PEAK = "device:sdpo_flops_peak:constant"
RUN_FLOPS = Recorded(
    "run:sdpo_train_flops:rate1h",
    f"sum by ({_RUN}) (rate({of_step('train/flops')}[{_WINDOW}]))",
    "Operations a second of the model, of all ranks, over an hour",
)
MFU = Recorded(
    "run:sdpo_model_flops_utilisation:ratio1h",
    f"{RUN_FLOPS.name} / sum by ({_RUN}) ("
    f"{select(series.DEVICES, role='trainer')} * on (model) group_left () {PEAK})",
    "Share of the trainer's peak that the model's operations are, sampling and all else included",
)
DEVICE_HOURS = Recorded(
    "run:sdpo_device_hours:increase1d",
    f"sum by ({_RUN}, role, model) ({series.DEVICES.name}) * on ({_RUN}) group_left () "
    f"sum by ({_RUN}) (increase({series.PHASE_SECONDS.name}[1d])) / 3600",
    "Hours of devices in the last day, while a trainer was alive",
)
RECORDED: tuple[Recorded, ...] = (
    *(Recorded(PEAK, f"vector({flops:.0f})", "Peak of one device", {"model": model})
      for model, flops in PEAK_FLOPS.items()),
    RUN_FLOPS,
    MFU,
    DEVICE_HOURS,
)  # fmt: skip
