"""A stage's sender: whatever fails to be sent, all is gathered, hashed and written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sdpo_megatron.errors import EngineDiedError, EngineError, SwapError
from sdpo_megatron.weights.bucket import Bucket, TensorMeta
from sdpo_megatron.weights.version_folder import StageWriter
from serving.client import EngineClient
from serving.config import EngineConfig
from serving.router import Served
from serving.swapping.checksum import EngineChecksum, tensor_checksum
from serving.swapping.stage_sender import StageSender
from serving.swapping.swap_target import StageReport, SwapFailure, SwapTarget
from serving.transports.transport import Failures, Patience

NUM_BUCKETS = 4
MODEL = {"num_attention_heads": 1, "num_key_value_heads": 1}
ENGINES = (Served("http://a", 0), Served("http://b", 2))


class Scripted:
    """A transport that takes `good` buckets and then raises `error`, if it is given one."""

    def __init__(self, good: int = NUM_BUCKETS, error: Exception | None = None) -> None:
        self.num_bytes = 0
        self.good, self.error = good, error
        self.no_buffer_at = -1
        self.refuses: list[str] = []
        self._buffers = 0

    def buffer(self, num_bytes: int) -> torch.Tensor:
        self._buffers += 1
        if self._buffers - 1 == self.no_buffer_at:
            raise SwapError("/dev/shm is full")
        return torch.empty(num_bytes, dtype=torch.uint8)

    async def open(self, clients: Sequence[EngineClient]) -> Failures:
        error: EngineError = EngineDiedError("no group")
        return {client: error for client in clients if client.url in self.refuses}

    async def send(
        self, clients: Sequence[EngineClient], buckets: AsyncIterator[Bucket], patience: Patience
    ) -> Failures:
        taken = 0
        async for bucket in buckets:
            if taken == self.good and self.error is not None:
                raise self.error
            taken += 1
            self.num_bytes += bucket.num_bytes * len(clients)
        return {}

    async def close(self) -> None:
        pass


def _send(transport: Scripted, tmp_path: Path) -> tuple[StageReport, list[Path]]:
    """The report, and the files of the folder."""
    gathered: list[int] = []

    def gather(buffers: Any) -> Iterator[Bucket]:
        for number in range(NUM_BUCKETS):
            meta = TensorMeta(f"t{number}", (2,), torch.float32)
            bucket = Bucket((meta,), buffers(8))
            next(bucket.tensors())[1].fill_(float(number))
            gathered.append(number)
            yield bucket

    sender = StageSender(transport, EngineConfig())
    writer = StageWriter(tmp_path, 0, behind=True)
    checksum = EngineChecksum(MODEL, dtype="float32")
    target = SwapTarget(number=1, engines=ENGINES, seconds_left=60.0)
    report = sender.send(target, gather, writer, checksum)
    assert writer.wait() is None
    sender.close()
    assert gathered == list(range(NUM_BUCKETS))
    return report, sorted(tmp_path.glob("*.safetensors"))


def _hashes() -> dict[str, str]:
    return {
        f"t{number}": tensor_checksum(torch.full((2,), float(number)))
        for number in range(NUM_BUCKETS)
    }


def test_all_is_well(tmp_path: Path) -> None:
    report, files = _send(Scripted(), tmp_path)
    assert report.failures == {}
    assert report.num_bytes == 2 * NUM_BUCKETS * 8
    assert report.checksums == (_hashes(),)
    assert len(files) == NUM_BUCKETS
    assert set(report.seconds) == {"open", "send"}


@pytest.mark.parametrize("good", [0, 2, NUM_BUCKETS - 1])
@pytest.mark.parametrize("error", [EngineDiedError("gone"), RuntimeError("a mistake")])
def test_a_transport_that_breaks_is_every_engine_s_failure(
    good: int, error: Exception, tmp_path: Path
) -> None:
    report, files = _send(Scripted(good, error), tmp_path)
    assert set(report.failures) == {"http://a", "http://b"}
    assert all(str(error) in failure.why for failure in report.failures.values())
    assert report.checksums == (_hashes(),)
    assert len(files) == NUM_BUCKETS


def test_no_room_for_a_bucket_is_every_engine_s_failure(tmp_path: Path) -> None:
    transport = Scripted()
    transport.no_buffer_at = 1
    report, files = _send(transport, tmp_path)
    assert report.failures == dict.fromkeys(
        ("http://a", "http://b"), SwapFailure("/dev/shm is full")
    )
    assert len(files) == NUM_BUCKETS


def test_an_engine_that_cannot_be_opened_gets_nothing(tmp_path: Path) -> None:
    transport = Scripted()
    transport.refuses = ["http://b"]
    report, _ = _send(transport, tmp_path)
    assert report.failures == {"http://b": SwapFailure("no group", died=True)}
    assert report.num_bytes == NUM_BUCKETS * 8
