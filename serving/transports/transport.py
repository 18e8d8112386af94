"""The interface of a transport, and which one a configuration means.

    open(clients)             before a swap: whatever the data needs, for engines that are new
    send(version, buckets)    one stage's buckets to all of them; each is begun and not yet ended
    close()

A transport moves bytes and calls the engines' update endpoints. Pausing, checking, naming the
version and resuming are the transaction's (`hot_swap`).
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from sdpo_megatron.errors import ConfigError, EngineError
from sdpo_megatron.weights.bucket import Bucket
from serving.client import EngineClient
from serving.command import resolve_device
from serving.config import EngineConfig
from serving.transports.shared_memory import free_bytes

Failures = Mapping[EngineClient, EngineError]
"""What went wrong, for those engines alone where something did."""


class Transport(Protocol):
    """One pipeline stage's way to the engines; lives on the stage's sending rank.

    Attributes:
        num_bytes: Sent so far, the same bytes to each engine counted each time.
    """

    num_bytes: int

    def buffer(self, num_bytes: int) -> torch.Tensor:
        """A uint8 tensor to gather a bucket into, which `send` then takes the quickest."""
        ...

    async def open(self, clients: Sequence[EngineClient]) -> Failures:
        """Be ready to send to these, and to no others; those of the last time stay as they are."""
        ...

    async def send(
        self, clients: Sequence[EngineClient], buckets: AsyncIterator[Bucket], patience: Patience
    ) -> Failures:
        """Every bucket to every engine. An engine that fails gets no more; the rest go on.

        Takes all of `buckets`, whatever fails: others may be waiting to get rid of them.
        """
        ...

    async def close(self) -> None:
        """Give back what was opened. Bounded in time."""
        ...


@dataclass(frozen=True)
class Patience:
    """How long a swap waits for whom.

    Attributes:
        quorum: Engines that are enough to go on without the others.
        late_after_s: Seconds that the others get once a quorum is through.
        deadline: When to give up on all, as `time.monotonic` counts.
    """

    quorum: int
    late_after_s: float
    deadline: float

    @classmethod
    def of(cls, config: EngineConfig, num_engines: int, seconds_left: float) -> Patience:
        """That of a swap of so many engines with so much time left."""
        quorum = max(1, math.ceil(num_engines * config.swap.quorum - 1e-9))
        return cls(quorum, config.swap.late_after_s, time.monotonic() + seconds_left)


def resolve_transport(
    config: EngineConfig,
    *,
    shares_gpus: bool = False,
    one_machine: bool = True,
    num_bytes: int = 0,
) -> str:
    """ "distributed", "tensor" or "disk"; what "auto" means is told in `EngineConfig.transport`.

    Args:
        shares_gpus: An engine sits on a GPU of a trainer rank.
        one_machine: All trainer ranks are where the engines are started.
        num_bytes: Of the weights: they may all be in shared memory until they are written.

    Raises:
        ConfigError: The transport that was chosen cannot work so.
    """
    on_cpu = not config.urls and resolve_device(config) == "cpu"
    problem = ""
    if config.transport in ("distributed", "tensor") and not (config.urls or one_machine):
        problem = "engines started here listen for rank 0's machine alone; use disk, or give urls"
    elif config.transport == "distributed" and shares_gpus:
        problem = "NCCL cannot have two ranks on one GPU; use tensor or disk"
    elif config.transport == "tensor" and not (on_cpu or shares_gpus):
        problem = "an engine sees its own GPUs alone, and shares none with a rank; use distributed"
    if problem:
        raise ConfigError(f"rollout.engine.transport={config.transport}: {problem}")
    if config.transport != "auto":
        return config.transport
    if config.urls or shares_gpus or not one_machine:
        return "disk"
    return "tensor" if on_cpu and free_bytes() > num_bytes else "distributed"
