"""One pipeline stage's sending rank: buckets as they are gathered, to the engines, the folder and
the checksum at once.

    main thread   gather bucket n + 1
    loop thread   send bucket n           (`Transport.send`)
    hash thread   checksum of bucket n    (where somebody compares it)
    writer        the buckets to the version's folder, once the engines serve them

A failure to send never stops the gathering, in which other ranks take part.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from sdpo_megatron.errors import EngineDiedError, EngineError, SwapError
from sdpo_megatron.weights.bucket import Bucket
from sdpo_megatron.weights.fp8 import served_tensors
from sdpo_megatron.weights.gather import Buffers
from sdpo_megatron.weights.version_folder import StageWriter
from serving.client import EngineClient
from serving.config import EngineConfig
from serving.router import Served
from serving.swapping.checksum import EngineChecksum
from serving.swapping.swap_target import StageReport, SwapFailure, SwapTarget
from serving.transports.disk import DiskTransport
from serving.transports.distributed import DistributedTransport
from serving.transports.tensor import TensorTransport
from serving.transports.transport import Failures, Patience, Transport

Gathering = Callable[[Buffers], Iterable[Bucket | None]]
"""`StageGather.buckets`."""


def open_transport(kind: str, device: torch.device, config: EngineConfig) -> Transport:
    """The transport of that name for buckets on `device`."""
    if kind == "distributed":
        return DistributedTransport(device, address=config.swap.address or _loopback(config))
    return TensorTransport(device) if kind == "tensor" else DiskTransport(device)


def _loopback(config: EngineConfig) -> str:
    return "" if config.urls else "127.0.0.1"


class StageSender:
    """Lives as long as its rank; connections and groups last from swap to swap."""

    def __init__(self, transport: Transport, config: EngineConfig):
        self._transport, self._config = transport, config
        self._clients: dict[Served, EngineClient] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="swap", daemon=True)
        self._thread.start()
        self._hashing = ThreadPoolExecutor(1, thread_name_prefix="swap-checksum")

    def send(
        self,
        target: SwapTarget,
        gather: Gathering,
        writer: StageWriter,
        checksum: EngineChecksum | None,
    ) -> StageReport:
        """Gather in this thread and send. Never raises for what an engine, the disk or shared
        memory did: that is in the report.
        """
        started = time.monotonic()
        clients = self._clients_of(target)
        opened = self._wait(self._transport.open(clients))
        after_open = time.monotonic()
        bytes_before = self._transport.num_bytes
        if isinstance(self._transport, DiskTransport):
            self._transport.writer = writer
        stage = _Stage(self._transport, writer, checksum, self._hashing)
        left = [client for client in clients if client not in opened]
        patience = Patience.of(self._config, len(clients), target.seconds_left)
        sending = asyncio.run_coroutine_threadsafe(stage.send(left, patience), self._loop)
        for bucket in gather(stage.buffer):
            assert bucket is not None, "only a stage's sender has one"
            stage.ahead.put(bucket)
        stage.ahead.put(None)
        failures = {**opened, **sending.result()}
        return StageReport(
            failures={
                client.url: SwapFailure(str(error), isinstance(error, EngineDiedError))
                for client, error in failures.items()
            },
            checksums=stage.checksums(),
            num_bytes=self._transport.num_bytes - bytes_before,
            seconds={"open": after_open - started, "send": time.monotonic() - after_open},
        )

    def close(self) -> None:
        """Give back groups and connections."""

        async def end() -> None:
            await self._transport.close()
            for client in self._clients.values():
                await client.close()

        self._wait(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._hashing.shutdown(wait=False)

    def _clients_of(self, target: SwapTarget) -> list[EngineClient]:
        for gone in self._clients.keys() - set(target.engines):
            self._wait(self._clients.pop(gone).close())
        for served in target.engines:
            self._clients.setdefault(served, EngineClient(served.url, self._config))
        return [self._clients[served] for served in target.engines]

    def _wait(self, work):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _Stage:
    """The buckets of one swap, on their way."""

    def __init__(
        self,
        transport: Transport,
        writer: StageWriter,
        checksum: EngineChecksum | None,
        hashing: ThreadPoolExecutor,
    ):
        self.ahead: queue.Queue[Bucket | None] = queue.Queue(1)
        self._transport, self._writer = transport, writer
        self._checksum, self._executor = checksum, hashing
        self._hashes: list[Future[None]] = []
        self._no_buffer: SwapError | None = None
        self._ended = False

    def buffer(self, num_bytes: int) -> torch.Tensor:
        """Where the next bucket is gathered into; somewhere, whatever happens."""
        try:
            return self._transport.buffer(num_bytes)
        except SwapError as error:
            self._no_buffer = error
            return torch.empty(num_bytes, dtype=torch.uint8)

    async def send(self, clients: list[EngineClient], patience: Patience) -> Failures:
        buckets = self._buckets()
        try:
            failures = dict(await self._transport.send(clients, buckets, patience))
        except Exception as error:
            what = error if isinstance(error, EngineError) else SwapError(repr(error))
            failures = dict.fromkeys(clients, what)
            await self._drain()
        if not isinstance(self._transport, DiskTransport):
            self._writer.finish()
        return failures

    def checksums(self) -> tuple[dict[str, str], ...]:
        for future in self._hashes:
            future.result()
        return tuple(self._checksum.ranks()) if self._checksum is not None else ()

    async def _buckets(self) -> AsyncIterator[Bucket]:
        while True:
            bucket = await asyncio.to_thread(self.ahead.get)
            if bucket is None:
                self._ended = True
                return
            self._keep(bucket)
            if self._no_buffer is not None:
                raise self._no_buffer
            yield bucket

    async def _drain(self) -> None:
        """What is gathered still: the folder needs it, and other ranks take part in it."""
        while not self._ended:
            bucket = await asyncio.to_thread(self.ahead.get)
            if bucket is None:
                self._ended = True
            else:
                self._keep(bucket)

    def _keep(self, bucket: Bucket) -> None:
        if self._checksum is not None:
            self._hashes.append(self._executor.submit(_hash, self._checksum, bucket))
        if not isinstance(self._transport, DiskTransport):
            self._writer.add(bucket)


def _hash(checksum: EngineChecksum, bucket: Bucket) -> None:
    # An engine's checksum is of what it computes with, also where it holds that in FP8.
    for name, tensor in served_tensors(bucket.tensors()):
        checksum.add(name, tensor)
