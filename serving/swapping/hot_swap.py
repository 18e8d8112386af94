"""The transaction that brings new weights into an engine that serves, step by step.

    begin        pause (running requests are retracted: they wait, and go on with the new weights),
                 name the weights "mixed", open the update
    (buckets)    by a `transports.Transport`; or `load`, from a folder
    complete     close the update, checksum, and only where that is right: name the version, resume

An engine that has given its GPU memory back gets that of the weights in `begin` and the rest before
it resumes (`serving.memory`).

An engine that fails on the way stays paused, and its weights have no version: whoever finds it,
this run or a later one, can tell, and `reload` brings it back from a folder. Every call is bounded
by `EngineConfig.control_timeout_s`; waiting for many by `Patience`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sdpo_megatron.errors import EngineError, SwapError
from sdpo_megatron.nouns import PolicyVersion
from serving import memory
from serving.client import EngineClient, EngineRefusal, PauseMode
from serving.swapping.settle import settle
from serving.transports.transport import Patience
from serving.weight_files import check_weight_files

Observe = Callable[[str, float], None]
"""Hears how many seconds a stage of one engine took: pause, load, verify, resume."""
Errors = dict[EngineClient, EngineError]


def unobserved(stage: str, seconds: float) -> None:
    """For who does not ask."""


async def begin(
    client: EngineClient,
    *,
    mode: PauseMode = "retract",
    stream: bool = True,
    observe: Observe = unobserved,
) -> None:
    """Pause, mark and, for a stream of buckets, open the update."""
    with _timed(observe, "pause"):
        await client.pause(mode)
        await client.mark_mixed()
        await memory.wake_weights(client)
        if stream:
            await client.begin_update()


async def load(client: EngineClient, folder: Path, observe: Observe = unobserved) -> None:
    """The weights of a folder into an engine that has begun without a stream."""
    with contextlib.suppress(EngineRefusal):  # who died left one open: loading does not close it
        await client.end_update()
    with _timed(observe, "load"):
        await client.load_weights_from_disk(folder)


async def complete(
    clients: Sequence[EngineClient],
    version: PolicyVersion,
    patience: Patience,
    *,
    folder: Path | None = None,
    verify: bool = True,
    observe: Observe = unobserved,
) -> Errors:
    """From weights that have arrived to serving them; returns the engines that failed.

    Args:
        clients: Those that have begun and taken every bucket.
        version: Its checksum is `checksum.EngineChecksum.overall()` for these engines. "": they are
            compared with each other, and a minority fails; without a majority all do.
        folder: They load it first; None: the buckets came by a transport.
        verify: False: nothing is compared.
    """
    compare = verify and (bool(version.checksum) or len(clients) > 1)

    async def arrive(client: EngineClient) -> str:
        if folder is None:
            await client.end_update()
        else:
            await load(client, folder, observe)
        if not compare:
            return ""
        with _timed(observe, "verify"):
            return (await client.checksums()).overall

    async def resume(client: EngineClient) -> None:
        with _timed(observe, "resume"):
            await memory.wake_rest(client)
            await client.set_version(version.number)
            await client.resume()

    sums, failures = await settle(
        {client: arrive(client) for client in clients}, patience, "loaded the weights"
    )
    if compare:
        failures |= _mismatches(sums, version)
    _, not_resumed = await settle(
        {client: resume(client) for client in sums if client not in failures}, patience, "resumed"
    )
    return failures | not_resumed


async def reload(
    client: EngineClient,
    folder: Path,
    version: PolicyVersion,
    *,
    verify: bool = True,
    observe: Observe = unobserved,
) -> None:
    """One engine by itself, whatever state it was left in: from `folder` to serving `version`.

    Raises:
        SwapError: The folder cannot be read, or the checksum differs.
        EngineError: The engine failed, and stays paused.
    """
    check_weight_files(folder, version.number)
    await begin(client, stream=False, observe=observe)
    bound = time.monotonic() + client.config.swap.deadline_s
    failures = await complete(
        [client], version, Patience(1, 0.0, bound), folder=folder, verify=verify, observe=observe
    )
    if failures:
        raise failures[client]


async def swap(
    clients: Sequence[EngineClient],
    folder: str | Path,
    version: PolicyVersion,
    observe: Observe = unobserved,
) -> Errors:
    """Bring several engines to the weights in a folder; returns those that failed.

    Raises:
        SwapError: The folder holds no readable safetensors; no engine was touched.
    """
    check_weight_files(Path(folder), version.number)

    async def one(client: EngineClient) -> EngineError | None:
        try:
            await reload(client, Path(folder), version, observe=observe)
        except EngineError as error:
            return error
        return None

    errors = await asyncio.gather(*(one(client) for client in clients))
    return {client: error for client, error in zip(clients, errors, strict=True) if error}


def _mismatches(sums: dict[EngineClient, str], version: PolicyVersion) -> Errors:
    if version.checksum:
        due, whose = version.checksum, "the trainer's"
    else:
        counted = collections.Counter(sums.values()).most_common(2)
        tied = len(counted) > 1 and counted[0][1] == counted[1][1]
        due, whose = ("", "that of no majority") if tied else (counted[0][0], "most engines'")
    return {
        client: SwapError(
            f"{client.url}: policy version {version.number} has checksum {found[:16]}… there, "
            f"{whose} is {due[:16]}…: the engine's weights are not the trainer's (same dtype and "
            "tp on both sides?)"
        )
        for client, found in sums.items()
        if found != due
    }


@contextlib.contextmanager
def _timed(observe: Observe, stage: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    observe(stage, time.monotonic() - started)
