"""Weights by a folder: the buckets become its files, and whoever ends the swap has engines read it.

The slowest way and the one that works everywhere: for the start, for engines that come back, and
for those at other sites that see the folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import torch

from sdpo_megatron.errors import EngineError, SwapError
from sdpo_megatron.weights.bucket import Bucket
from sdpo_megatron.weights.version_folder import StageWriter
from serving.client import EngineClient
from serving.transports.transport import Failures, Patience


class DiskTransport:
    """See `Transport`. Sending writes; the engines load once the folder is whole."""

    def __init__(self, device: torch.device):
        self._device = device
        self.writer: StageWriter | None = None
        self.num_bytes = 0

    def buffer(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    async def open(self, clients: Sequence[EngineClient]) -> Failures:
        return {}

    async def send(
        self, clients: Sequence[EngineClient], buckets: AsyncIterator[Bucket], patience: Patience
    ) -> Failures:
        assert self.writer is not None, "the stage's part of the folder was not begun"
        async for bucket in buckets:
            await asyncio.to_thread(self.writer.add, bucket)
            self.num_bytes += bucket.num_bytes
        self.writer.finish()
        problem = await asyncio.to_thread(self.writer.wait)
        error: EngineError | None = SwapError(problem) if problem else None
        return dict.fromkeys(clients, error) if error else {}

    async def close(self) -> None:
        pass
