"""Where the trainer's time, operations and memory go."""

from __future__ import annotations

from sdpo_megatron.monitoring.dashboards.shared import (
    HOURS,
    MEMORY,
    PHASES,
    RATE,
    UTILISATION,
    rate,
)
from sdpo_megatron.monitoring.panel import Curve, Dashboard, Panel, Row, step
from sdpo_megatron.monitoring.promql import THIS_RUN, mean, quantile, select, series_of
from sdpo_megatron.observability import series
from sdpo_megatron.observability.metrics import BY_KEY

_STEP_SECONDS = series_of(BY_KEY["time/step_s"])
_PHASES = ("rollout", "teacher", "student", "optimizer", "publish", "checkpoint")

# fmt: off
_TIME = Row("Where does the time go?", (
    Panel(title="A step", help="Seconds of a whole step: mean and 95th percentile.", unit="s", bounds=(0, None),
          curves=(Curve(mean(_STEP_SECONDS, RATE, THIS_RUN), "mean", "time/step_s"), Curve(quantile(0.95, _STEP_SECONDS, "1h", THIS_RUN), "95 % of an hour"))),
    Panel(title="Parts of the last step", help="Seconds of each; judging overlaps with sampling and is left out.", unit="s", stacked=True, bounds=(0, None),
          curves=tuple(step(f"time/{phase}_s", phase) for phase in _PHASES)),
    PHASES,
))
_WORK = Row("How much is done?", (
    Panel(title="Trained tokens", help="A second of the whole run.", unit="tokens/s", bounds=(0, None),
          curves=(Curve(rate(select(series_of(BY_KEY["train/tokens"]), THIS_RUN)), "trained", "train/tokens_per_s"),)),
    Panel(title="Operations", help="Of the model in the passes of teacher and student, by all ranks (sdpo_megatron/weights/flops.py). From metrics.jsonl: of a step.", unit="FLOP/s", bounds=(0, None),
          curves=(Curve(rate(select(series_of(BY_KEY["train/flops"]), THIS_RUN)), "operations", "train/flops"),)),
    UTILISATION,
    HOURS,
    Panel(title="Micro-batches", help="Of each rank in a step.", unit="items", bounds=(0, None), curves=(step("train/num_micro_batches", "micro-batches"),)),
))
_RANKS = Row("Is one rank slower, or fuller?", (
    Panel(title="Work of a rank", help="Seconds of the student's passes before gradients are reduced. A wide band between least and most is a slow rank, or uneven batches.", unit="s", bounds=(0, None),
          curves=(step("ranks/student_s_min", "least"), step("ranks/student_s_mean", "mean"), step("ranks/student_s_max", "most"))),
    Panel(title="The slowest rank", help="The same number again and again is a machine to look at.", unit="items", bounds=(0, None), curves=(step("ranks/slowest", "rank"),)),
    Panel(title="Memory of a rank", help="The most that a rank has held: of its device, or of its process on a CPU; and what a device has.", unit="bytes", bounds=(0, None),
          curves=(step("ranks/memory_bytes_min", "least"), step("ranks/memory_bytes_mean", "mean"), step("ranks/memory_bytes_max", "most"), Curve(select(series.DEVICE_MEMORY_BYTES, THIS_RUN), "device"))),
    Panel(title="Samples of a rank", help="Attempts that a rank holds for the step: its data-parallel rank's share, never the batch.", unit="bytes", bounds=(0, None),
          curves=(step("ranks/sample_bytes_min", "least"), step("ranks/sample_bytes_mean", "mean"), step("ranks/sample_bytes_max", "most"))),
    MEMORY,
))
_CHECKPOINTS = Row("What do checkpoints cost?", (
    Panel(title="Writing", help="Seconds that the step waited, and seconds until it was on the disk.", unit="s", bounds=(0, None),
          curves=(step("time/checkpoint_s", "the step waited"), Curve(select(series.CHECKPOINT_WRITE_SECONDS, THIS_RUN), "on the disk after"))),
    Panel(title="Size", help="Of the newest whole checkpoint.", unit="bytes", bounds=(0, None), curves=(Curve(select(series.CHECKPOINT_BYTES, THIS_RUN), "size"),)),
    Panel(title="Free", help="On the run's volume.", unit="bytes", bounds=(0, None), curves=(Curve(select(series.RUN_VOLUME_FREE_BYTES, THIS_RUN), "free"),)),
))
# fmt: on

TRAINER = Dashboard(
    uid="sdpo-trainer",
    title="SDPO / Trainer performance",
    help="Where do the trainer's time, operations and memory go?",
    rows=(_TIME, _WORK, _RANKS, _CHECKPOINTS),
)
