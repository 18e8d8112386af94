"""Weights by memory that engines of this machine map: named shared memory, CUDA IPC on a GPU.

The bucket is gathered into that memory once, whatever the number of engines, and each engine copies
out of it what its ranks hold. Shared memory is kept from swap to swap: to have the system hand out
and clear its pages costs more than to fill them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import torch

from sdpo_megatron.errors import EngineError, SwapError
from sdpo_megatron.weights.bucket import Bucket
from serving.client import EngineClient
from serving.swapping.settle import settle
from serving.transports.shared_memory import handles, shared_bytes
from serving.transports.transport import Failures, Patience


class TensorTransport:
    """See `Transport`."""

    def __init__(self, device: torch.device):
        """`device` holds the buckets."""
        self._device = device
        self.num_bytes = 0
        self._kept: list[torch.Tensor] = []  # shared memory of former swaps
        self._used: list[torch.Tensor] = []  # of this one

    def buffer(self, num_bytes: int) -> torch.Tensor:
        """Raises SwapError where shared memory is used up."""
        if self._device.type == "cuda":
            return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        found = next((i for i, old in enumerate(self._kept) if old.numel() >= num_bytes), None)
        try:
            memory = shared_bytes(num_bytes) if found is None else self._kept.pop(found)
        except OSError as error:
            raise SwapError(str(error)) from error
        self._used.append(memory)
        return memory[:num_bytes]

    async def open(self, clients: Sequence[EngineClient]) -> Failures:
        # The folder of the version before is whole by now, and an engine that is still reading its
        # buckets is out: it serves nothing before its checksum was right.
        self._kept, self._used = [*self._kept, *self._used], []
        return {}

    async def send(
        self, clients: Sequence[EngineClient], buckets: AsyncIterator[Bucket], patience: Patience
    ) -> Failures:
        failures: dict[EngineClient, EngineError] = {}
        first = True
        async for bucket in buckets:
            if bucket.flat.is_cuda:
                torch.cuda.current_stream(bucket.flat.device).synchronize()
            left = [client for client in clients if client not in failures]
            work = {client: self._send(client, bucket, flush=first) for client in left}
            first = False
            _, failed = await settle(work, patience, "took the bucket")
            failures |= failed
        return failures

    async def close(self) -> None:
        self._kept, self._used = [], []

    async def _send(self, client: EngineClient, bucket: Bucket, *, flush: bool) -> None:
        payloads = [
            handles(bucket, gpu_seen_as=self._seen_by(client)) for _ in range(client.config.tp)
        ]
        await client.take_tensors(payloads, flush=flush)
        self.num_bytes += bucket.num_bytes

    def _seen_by(self, client: EngineClient) -> int:
        """The engine's number for the GPU of the buckets: it sees its own ones alone."""
        gpus = client.config.gpus
        index = self._device.index or 0
        return gpus.index(index) if index in gpus else 0
