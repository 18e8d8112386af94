"""Every Prometheus series of a training run: those of the step's metrics, and the live ones.

The step's metrics (`metrics.METRICS`) change when a step ends. The live ones, declared here, change
when something happens, so that they answer "is it stuck?" in the middle of a step. Names follow the
Prometheus conventions: base units, ``_total`` for counters, what distinguishes series in labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sdpo_megatron.observability.metrics import METRICS, Kind

__all__ = ["LIVE", "PHASES", "SERIES", "Series"]

PHASES = (
    "start", "rollout", "prompts", "teacher", "student", "optimizer", "publish", "checkpoint",
    "validation", "diagnostics", "report", "other", "idle",
)  # fmt: skip
"""`other` is what none of the named ones covers, `idle` the time after the last step."""


@dataclass(frozen=True)
class Series:
    """One name, and the labels that tell its series apart.

    Attributes:
        name: Of the metric family.
        labels: Each label with the values it can have; () where they are not known beforehand.
        buckets: Upper bounds of a histogram.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()

    @property
    def label_names(self) -> list[str]:
        return list(self.labels)

    def known_labels(self) -> Iterator[tuple[str, ...]]:
        """Every combination of label values, where all of them are known beforehand."""
        if all(self.labels.values()):
            yield from itertools.product(*self.labels.values())


_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_TOKENS = tuple(float(2**n) for n in range(3, 17))
_REWARDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

# fmt: off
# Is it stuck?
PHASE_INFO = Series("sdpo_phase_info", "gauge", "1", "1 for the phase that rank 0 is in", {"phase": PHASES})
PHASE_START_TIME = Series("sdpo_phase_start_timestamp_seconds", "gauge", "s", "Unix time at which that phase began")
RUN_START_TIME = Series("sdpo_run_start_timestamp_seconds", "gauge", "s", "Unix time at which this process of the run began")
STEP = Series("sdpo_step", "gauge", "steps", "Steps done")
STEPS_TARGET = Series("sdpo_steps_target", "gauge", "steps", "Steps after which the run is complete")
LAST_STEP_TIME = Series("sdpo_last_step_timestamp_seconds", "gauge", "s", "Unix time at which the last step ended")
ATTEMPTS_IN_FLIGHT = Series("sdpo_attempts_in_flight", "gauge", "attempts", "Attempts of the step that are not judged yet")
# Where does the time go?
PHASE_SECONDS = Series("sdpo_phase_seconds_total", "counter", "s", "Wall time of rank 0 by phase; all phases together are the age of the process", {"phase": PHASES})
# What comes out of the engines?
ROLLOUT_TOKENS = Series("sdpo_rollout_tokens_total", "counter", "tokens", "Tokens sampled")
ATTEMPT_RESPONSE_TOKENS = Series("sdpo_attempt_response_tokens", "histogram", "tokens", "Length of an attempt", buckets=_TOKENS)
ATTEMPT_REWARD = Series("sdpo_attempt_reward", "histogram", "reward", "Reward of an attempt", buckets=_REWARDS)
ATTEMPT_STALENESS_VERSIONS = Series("sdpo_attempt_staleness_versions", "histogram", "versions", "Policy versions between an attempt's oldest token and its training", buckets=(0.0, 1.0, 2.0, 4.0, 8.0))
ATTEMPTS = Series("sdpo_attempts_total", "counter", "attempts", "Attempts judged, by how they ended and whether they solved their question", {"finish": ("stop", "length", "abort"), "solved": ("true", "false")})
# Which worker?
WORKER_UP = Series("sdpo_worker_up", "gauge", "1", "1 while the rollout worker takes groups", {"worker": ()})
WORKER_EXITS = Series("sdpo_worker_exits_total", "counter", "exits", "Times that the rollout worker ended by itself", {"worker": ()})
GROUPS_LIVE = Series("sdpo_groups_live", "gauge", "groups", "Groups by where they are now, those trained on up to the last checkpoint left out", {"state": ("waiting", "leased", "committed", "batched")})
# Which engine?
ENGINE_UP = Series("sdpo_engine_up", "gauge", "1", "1 while the engine takes requests, 0 while it is out of the pool", {"engine": ()})
ENGINE_REQUESTS_IN_FLIGHT = Series("sdpo_engine_requests_in_flight", "gauge", "requests", "Requests that the engine works on", {"engine": ()})
ENGINE_POLICY_VERSION = Series("sdpo_engine_policy_version", "gauge", "version", "Policy version that the engine was last given", {"engine": ()})
ENGINE_EXITS = Series("sdpo_engine_exits_total", "counter", "exits", "Times that the engine left the pool, by reason", {"engine": (), "reason": ("died", "hung", "swap", "stale")})
ENGINE_REJOINS = Series("sdpo_engine_rejoins_total", "counter", "rejoins", "Times that it came back at the current version", {"engine": ()})
ENGINE_STATE = Series("sdpo_engine_state", "gauge", "1", "1 for the state that the engine is in: ready, updating (in a swap), out (coming back), lost", {"engine": (), "state": ("ready", "updating", "out", "lost")})
SWAP_SECONDS = Series("sdpo_swap_seconds", "histogram", "s", "Seconds of a hot swap by stage: of one engine, open and send of one pipeline stage, load from a folder", {"stage": ("pause", "open", "send", "load", "verify", "resume")}, _SECONDS)
SWAP_PAUSE_SECONDS = Series("sdpo_swap_pause_seconds", "histogram", "s", "Seconds that an engine generated nothing for a hot swap", {}, _SECONDS)
SWAP_BYTES = Series("sdpo_swap_bytes_total", "counter", "bytes", "Weights sent to engines, those to each counted, by transport", {"transport": ("distributed", "tensor", "disk")})
SWAP_FAILURES = Series("sdpo_swap_failures_total", "counter", "failures", "Hot swaps that an engine did not take", {"engine": ()})
# Which verifier?
VERIFY_INFRASTRUCTURE_FAILURES = Series("sdpo_verify_infrastructure_failures_total", "counter", "failures", "Verifications that infrastructure failed, before retries", {"where": ("local", "endpoints")})
VERIFY_CLIENT_REQUESTS = Series("sdpo_verify_client_requests_total", "counter", "requests", "Requests to verifier services: answered, busy (429), refused (another 4xx), failed (no connection, no sign of life, 5xx)", {"endpoint": (), "outcome": ("answered", "busy", "refused", "failed")})
VERIFY_CLIENT_SECONDS = Series("sdpo_verify_client_seconds", "histogram", "s", "Seconds until a request was answered, waiting for a worker included", {"endpoint": ()}, _SECONDS)
# Is it safe?
CHECKPOINT_LAST_SUCCESS_TIME = Series("sdpo_checkpoint_last_success_timestamp_seconds", "gauge", "s", "Unix time of the newest whole checkpoint of this process")
CHECKPOINT_STEP = Series("sdpo_checkpoint_step", "gauge", "step", "Step of that checkpoint")
CHECKPOINT_BYTES = Series("sdpo_checkpoint_bytes", "gauge", "bytes", "Its size")
CHECKPOINT_WRITE_SECONDS = Series("sdpo_checkpoint_write_seconds", "gauge", "s", "Seconds until it was on the disk, training beside it")
CHECKPOINT_FAILURES = Series("sdpo_checkpoint_failures_total", "counter", "failures", "Checkpoints that could not be written")
MEMORY_LIMIT_BYTES = Series("sdpo_memory_limit_bytes", "gauge", "bytes", "Memory that the run may hold on this machine: the least of its cgroup's limit and what is built in")
DEVICE_MEMORY_BYTES = Series("sdpo_device_memory_bytes", "gauge", "bytes", "Memory of one accelerator of the trainer")
RUN_VOLUME_FREE_BYTES = Series("sdpo_run_volume_free_bytes", "gauge", "bytes", "Free space where the run folder lies")
# What runs here?
BUILD_INFO = Series("sdpo_build_info", "gauge", "1", "Always 1; versions of what runs", {"version": (), "commit": (), "torch": (), "megatron_core": ()})
RUN_INFO = Series("sdpo_run_info", "gauge", "1", "Always 1; the run's name in its configuration, its task and its model", {"run_name": (), "task": (), "model": ()})
DEVICES = Series("sdpo_devices", "gauge", "devices", "Devices by what they do and their model", {"role": ("trainer", "engine"), "model": ()})
# fmt: on

LIVE: tuple[Series, ...] = tuple(v for v in list(vars().values()) if isinstance(v, Series))
"""All of the above, in order."""


def _of_steps() -> Iterator[Series]:
    """The series of the step's metrics; those that share a name differ in label values."""
    names = dict.fromkeys(metric.name for metric in METRICS if metric.name)
    for name in names:
        members = [metric for metric in METRICS if metric.name == name]
        first = members[0]
        labels = {
            label: tuple(dict(metric.labels)[label] for metric in members)
            for label, _ in first.labels
        }
        yield Series(name, first.kind, first.unit, first.help, labels, first.buckets)


SERIES: tuple[Series, ...] = (*LIVE, *_of_steps())
