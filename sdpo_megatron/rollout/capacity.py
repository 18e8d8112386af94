"""How many requests to have in flight, where the configuration leaves it to the engines."""

from __future__ import annotations

from sdpo_megatron.rollout.config import SamplingConfig
from serving.config import EngineConfig

PER_ENGINE = 256
"""Requests that an engine decodes at once, where neither we nor SGLang were told: what one GPU's
memory holds of KV cache for answers of usual length. More would wait in the engine's own queue."""


def requests_in_flight(sampling: SamplingConfig, engine: EngineConfig, num_engines: int) -> int:
    """`rollout.sampling.concurrency`, or as many as `num_engines` engines decode at once: each then
    has its next request as soon as one ends, and none waits in a queue with a deadline.
    """
    if sampling.concurrency is not None:
        return sampling.concurrency
    return max(1, num_engines) * (engine.max_running_requests or PER_ENGINE)


def num_engines(engine: EngineConfig) -> int:
    """Engines that the configuration starts or names; an address of several counts as one."""
    return len(engine.urls) or engine.num_engines
