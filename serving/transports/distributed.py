"""Weights by broadcast: the stage's sender and the engines' ranks in a process group.

On GPUs (NCCL) all engines share one group: a broadcast in it costs the same for two engines as for
sixty. On a CPU (gloo) each has a group of its own: the bytes leave this machine once for each
engine either way, and an engine that dies, hangs or drops its connection then stands alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import torch

from sdpo_megatron.errors import EngineDiedError, EngineError
from sdpo_megatron.weights.bucket import Bucket
from serving.client import EngineClient
from serving.swapping.settle import settle
from serving.transports.engine_group import EngineGroup, own_address
from serving.transports.transport import Failures, Patience


class DistributedTransport:
    """See `Transport`. Groups last from swap to swap, until an engine of theirs is gone."""

    def __init__(self, device: torch.device, *, address: str = "", one_group: bool | None = None):
        """`device` holds the buckets; `address` is where engines reach this machine.

        `one_group`: all engines in one group; None: where that is NCCL.
        """
        self._device = device
        self._address = address
        self._backend = "nccl" if device.type == "cuda" else "gloo"
        self._one_group = self._backend == "nccl" if one_group is None else one_group
        self._groups: list[EngineGroup] = []
        self.num_bytes = 0

    def buffer(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    async def open(self, clients: Sequence[EngineClient]) -> Failures:
        for group in [g for g in self._groups if not set(g.clients) <= set(clients)]:
            await self._drop(group)
        members = {client for group in self._groups for client in group.clients}
        new = [client for client in clients if client not in members]
        if self._one_group and new:
            for group in list(self._groups):
                await self._drop(group)
            new = list(clients)
        failures: dict[EngineClient, EngineError] = {}
        for together in [new] if self._one_group and new else [[client] for client in new]:
            try:
                self._groups.append(await self._join(together))
            except EngineError as error:
                failures |= dict.fromkeys(together, error)
        return failures

    async def send(
        self, clients: Sequence[EngineClient], buckets: AsyncIterator[Bucket], patience: Patience
    ) -> Failures:
        failures: dict[EngineClient, EngineError] = {}
        first = True
        async for bucket in buckets:
            left = [g for g in self._groups if not failures.keys() & set(g.clients)]
            work = {group: self._send(group, bucket, flush=first) for group in left}
            first = False
            _, failed = await settle(work, patience, "took the bucket")
            for group, error in failed.items():
                failures |= dict.fromkeys(group.clients, error)
                await self._drop(group)
        return {client: error for client, error in failures.items() if client in clients}

    async def close(self) -> None:
        for group in list(self._groups):
            await self._drop(group, leave=True)

    async def _join(self, clients: Sequence[EngineClient]) -> EngineGroup:
        swap = clients[0].config.swap
        address = self._address or own_address(clients[0].url)
        group = EngineGroup(clients, address, self._backend, swap.late_after_s)
        offset = 1
        calls = []
        for client in clients:
            calls.append(
                asyncio.ensure_future(
                    client.join_group(
                        group.name, address, group.port, group.size, self._backend, offset
                    )
                )
            )
            offset += client.config.tp
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(group.thread, group.join)
            await asyncio.gather(*calls)
        except (RuntimeError, EngineError) as error:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            group.abandon()
            names = ", ".join(client.url for client in clients)
            raise EngineDiedError(f"no process group with {names}: {error}") from error
        return group

    async def _send(self, group: EngineGroup, bucket: Bucket, *, flush: bool) -> None:
        """The broadcast, and the calls that make the engines take it."""
        loop = asyncio.get_running_loop()
        cast = loop.run_in_executor(group.thread, group.broadcast, bucket.flat)
        calls = [
            asyncio.ensure_future(client.receive_broadcast(bucket.metas, group.name, flush=flush))
            for client in group.clients
        ]
        try:
            await asyncio.gather(cast, *calls)
        except RuntimeError as error:
            raise EngineError(f"{group.clients[0].url}: broadcast failed: {error}") from error
        finally:
            for call in calls:
                call.cancel()
        self.num_bytes += bucket.num_bytes * len(group.clients)

    async def _drop(self, group: EngineGroup, *, leave: bool = False) -> None:
        self._groups.remove(group)
        if leave:
            for client in group.clients:
                with contextlib.suppress(EngineError, TimeoutError):
                    await asyncio.wait_for(client.leave_group(group.name), 5.0)
        await asyncio.to_thread(group.abandon)
