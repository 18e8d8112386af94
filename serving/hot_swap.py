"""New weights into running engines, as a transaction: `swap(clients, weights_dir, version)`.

    pause        running requests are retracted: they wait and carry on with the new weights, their
                 tokens keep their spans
    load         by a `Transport`
    verify       the engine's own checksum of its weights against the trainer's
                 (`PolicyVersion.checksum`)
    set version  only now can a token be said to come from `version`
    resume

Each engine goes through it by itself, all at the same time, every wait bounded by
`EngineConfig.control_timeout_s`. An engine that fails is never resumed unless its weights are
provably those of before; whoever holds the engines takes it out of the pool.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sdpo_megatron.errors import EngineDiedError, EngineError, SwapError
from sdpo_megatron.nouns import PolicyVersion
from serving.client import EngineClient
from serving.weight_files import check_weight_files


class Transport(Protocol):
    """Moves one version of the weights into one paused engine.

    `disk` works everywhere and is the only one so far. A transport that streams buckets from the
    trainer (NCCL, gloo, CUDA IPC) brackets them by SGLang's /begin_weight_update and
    /end_weight_update, and leaves version and checksum to `swap`.
    """

    async def load(self, client: EngineClient, weights_dir: Path) -> None:
        """Raises EngineError when the engine did not take all of them."""
        ...


class DiskTransport:
    """The engine reads an HF checkpoint folder that it can see at the same path."""

    async def load(self, client: EngineClient, weights_dir: Path) -> None:
        """SGLang keeps the old weights when it cannot find the files, but not when one turns out to
        be corrupt half-way."""
        await client.load_weights_from_disk(weights_dir)


@dataclass(frozen=True)
class SwapFailure:
    """One engine that did not take the weights.

    Attributes:
        error: Why.
        kept_old: It still serves the version of before, proven by checksum, and was resumed.
        died: It does not answer any more.
    """

    error: SwapError
    kept_old: bool
    died: bool


async def swap(
    clients: Sequence[EngineClient],
    weights_dir: str | Path,
    version: PolicyVersion,
    transport: Transport | None = None,
    observe: Callable[[str, float], None] = lambda stage, seconds: None,
) -> dict[EngineClient, SwapFailure]:
    """Bring every engine to `version`; returns those that failed (empty: all serve it now).

    Args:
        clients: Engines that are up.
        weights_dir: HF checkpoint folder of that version. It must stay until the next version is
            served.
        version: Its checksum is `checksum.EngineChecksum.overall()` for these engines; "" compares
            nothing.
        observe: Hears how many seconds each stage of each engine took: pause, load, verify, resume.

    Raises:
        SwapError: the folder holds no readable safetensors; no engine was touched.
    """
    folder = Path(weights_dir)
    try:
        check_weight_files(folder)
    except SwapError as error:
        raise SwapError(f"policy version {version.number}: {error}") from error
    outcomes = await asyncio.gather(
        *(
            _swap_one(client, folder, version, transport or DiskTransport(), observe)
            for client in clients
        )
    )
    return {
        client: failure
        for client, failure in zip(clients, outcomes, strict=True)
        if failure is not None
    }


async def _swap_one(
    client: EngineClient,
    folder: Path,
    version: PolicyVersion,
    transport: Transport,
    observe: Callable[[str, float], None],
) -> SwapFailure | None:
    before, lap = "", _Laps(observe)
    try:
        await client.pause()
        lap("pause")
        before = (await client.checksums()).overall
        lap("verify")
        await transport.load(client, folder)
        lap("load")
        after = (await client.checksums()).overall
        lap("verify")
        if version.checksum and after != version.checksum:
            raise SwapError(
                f"{client.url}: policy version {version.number} from {folder} has checksum "
                f"{after[:16]}…, the trainer's is {version.checksum[:16]}…: the engine's weights "
                "are not the trainer's (same dtype and tp on both sides?)"
            )
        await client.set_version(version.number)
        await client.resume()
        lap("resume")
        return None
    except EngineError as error:
        failure = (
            error
            if isinstance(error, SwapError)
            else SwapError(f"policy version {version.number}: {error}")
        )
        kept_old = await _resume_if_unchanged(client, before)
        return SwapFailure(failure, kept_old, died=isinstance(error, EngineDiedError))


class _Laps:
    def __init__(self, observe: Callable[[str, float], None]) -> None:
        self._observe, self._since = observe, time.monotonic()

    def __call__(self, stage: str) -> None:
        now = time.monotonic()
        self._observe(stage, now - self._since)
        self._since = now


async def _resume_if_unchanged(client: EngineClient, before: str) -> bool:
    try:
        if not before or (await client.checksums()).overall != before:
            return False
        await client.resume()
        return True
    except EngineError:
        return False
