"""Two real engines, a stream of buckets, and one thing after another that goes wrong in a swap.

Requests run all the while. Each fault ends in bounded time, no request is lost, every token came
from the weights that it says it came from, and whoever failed is back at the current version.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import CheckpointError, EngineError
from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.weights.bucket import Bucket, TensorMeta
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig
from serving.pool import EnginePool
from serving.swapping.swap_config import SwapConfig
from tests.distributed import run_ranks
from tests.serving.processes import running_with
from tests.serving.span_check import worst_gap
from tests.serving.worlds import PoolThread, varied

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROMPT = (1, 40, 41, 42, 43)
NUM_BUCKETS = 3


def test_every_fault_of_a_swap_ends_well(tiny_llama: Path, tmp_path: Path) -> None:
    folders = {0: tiny_llama} | {
        version: varied(tiny_llama, tmp_path / f"weights-{version}", version)
        for version in range(1, 8)
    }
    (found,) = run_ranks(
        drama, 1, {v: str(f) for v, f in folders.items()}, str(tmp_path), timeout_s=600.0
    )
    assert found["served"] == {
        "nothing": (1, 2, 2),
        "killed before": (2, 1, 2),
        "killed during": (3, 1, 2),
        "stopped during": (4, 1, 2),
        "connection dropped": (5, 1, 2),
        "bits flipped": (6, 0, 2),
        "killed after": (7, 2, 2),
    }, found["heard"]
    assert found["disk_full"].startswith("No space left on device")
    completions: list[Completion] = found["completions"]
    assert len(completions) == found["asked"]
    assert all(len(c.token_ids) == len(c.log_probs) > 0 for c in completions)
    assert worst_gap(PROMPT, completions, folders) < 1e-4
    assert running_with(found["tag"]) == []


# --- In the trainer's rank ------------------------------------------------------------------------


def drama(rank: int, world: int, folders: dict[int, str], out: str) -> dict[str, Any]:
    """Every fault in turn. For each: (version, engines that took the stream, engines that serve it
    in the end)."""
    tag = f"faults-{uuid.uuid4()}"
    config = EngineConfig(
        device="cpu",
        dtype="float32",
        threads=1,
        max_total_tokens=8192,
        num_engines=2,
        max_restarts=9,
        transport="distributed",
        swap=SwapConfig(late_after_s=4.0, deadline_s=240.0),
        extra_env=(f"TAG={tag}",),
    )
    heard: list[str] = []
    pool = EnginePool(config, folders[0], out, progress=heard.append)
    stage = _Stage(config, Path(folders[0]), Path(out) / "versions", PoolThread(pool), heard)
    stage.thread.call(stage.thread.pool.__aenter__())
    requests = _Requests(stage.thread)
    served: dict[str, tuple[int, int, int]] = {}
    try:
        faults: dict[str, dict[str, Callable[[], None]]] = {
            "nothing": {},
            "killed before": {"before": lambda: stage.signal(0, signal.SIGKILL)},
            "killed during": {"during": lambda: stage.signal(1, signal.SIGKILL)},
            "stopped during": {"during": lambda: stage.signal(0, signal.SIGSTOP)},
            "connection dropped": {"during": lambda: stage.drop_connection(0)},
            "bits flipped": {"during": stage.flip_bits},
            "killed after": {"after": lambda: stage.signal(1, signal.SIGKILL)},
        }
        for version, (name, moments) in enumerate(faults.items(), start=1):
            requests.start(4)
            took = stage.publish(version, folders[version], **moments)
            requests.start(4)
            serving = stage.all_serve(version)
            served[name] = (version, took, serving)
        disk_full = stage.publish_on_a_full_disk(8, folders[1])
        return {
            "served": served,
            "completions": requests.all(),
            "asked": requests.asked,
            "disk_full": disk_full,
            "heard": heard,
            "tag": tag,
        }
    finally:
        stage.sender.close()
        stage.thread.call(stage.thread.pool.__aexit__())


class _Requests:
    """Requests that go on while swaps do."""

    def __init__(self, thread: PoolThread) -> None:
        self._thread, self.asked = thread, 0
        self._futures: list[Any] = []

    def start(self, count: int) -> None:
        for _ in range(count):
            work = self._thread.pool.generate(PROMPT, SamplingParams(max_new_tokens=200))
            self._futures.append(asyncio.run_coroutine_threadsafe(work, self._thread.loop))
            self.asked += 1

    def all(self) -> list[Completion]:
        return [future.result(timeout=300) for future in self._futures]


class _Stage:
    """One stage's sender as a trainer has it, with a checkpoint's buckets instead of a model's."""

    def __init__(
        self,
        config: EngineConfig,
        source: Path,
        out: Path,
        thread: PoolThread,
        heard: list[str],
    ) -> None:
        import torch

        from serving.swapping.stage_sender import StageSender, open_transport

        self.config, self.source, self.out = config, source, out
        self.thread, self._heard = thread, heard
        self.transport: Any = open_transport("distributed", torch.device("cpu"), config)
        self.sender = StageSender(self.transport, config)
        self._flip = False
        really_send = self.transport._send

        async def send(group: Any, bucket: Bucket, *, flush: bool) -> None:
            if self._flip:
                flat = bucket.flat.clone()
                flat[0] ^= 1
                bucket = Bucket(bucket.metas, flat)
            await really_send(group, bucket, flush=flush)

        self.transport._send = send

    def publish(
        self,
        version: int,
        folder: str,
        *,
        before: Callable[[], None] = lambda: None,
        during: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
        full_disk: bool = False,
    ) -> int:
        """As `loops.publish`; returns how many engines had the new weights by the stream."""
        import torch

        from sdpo_megatron.weights.spec import read_config
        from sdpo_megatron.weights.version_folder import (
            StageWriter,
            begin_version,
            commit_version,
        )
        from serving.swapping.checksum import EngineChecksum, overall_checksum

        target = self.out / f"v{version:06d}"
        draft = begin_version(self.source, target, torch.float32)
        if full_disk:
            (draft / "stage-000-00000.safetensors").symlink_to("/dev/full")
        failures_before = len(self.failures())
        before()
        swap = self.thread.begin_swap(version, stream=True)
        checksum = EngineChecksum.of_engine(read_config(self.source), self.config)
        writer = StageWriter(draft, 0)
        report = self.sender.send(
            swap, lambda buffers: self._buckets(folder, buffers, during), writer, checksum
        )
        self._flip = False
        try:
            commit_version(draft, target, 1, 60.0)
        finally:
            number = PolicyVersion(version, overall_checksum(report.checksums))
            self.thread.finish_swap(number, target, [report], "distributed")
        after()
        return 2 - (len(self.failures()) - failures_before)

    def failures(self) -> list[str]:
        return [line for line in self._heard if "leaves the pool" in line]

    def publish_on_a_full_disk(self, version: int, folder: str) -> str:
        """The engines take the stream; that the folder is not there is an error for the run."""
        with pytest.raises(CheckpointError) as caught:
            self.publish(version, folder, full_disk=True)
        assert self.all_serve(version) == 2
        return str(caught.value).partition("] ")[2] or str(caught.value)

    def all_serve(self, version: int) -> int:
        """How many engines serve `version` once all that were out are back."""

        async def wait() -> int:
            pool = self.thread.pool
            async with asyncio.timeout(300):
                while True:
                    try:
                        found = [await engine.client.version() for engine in pool.ready]
                    except EngineError:  # dead, and no request has noticed yet
                        found = []
                    if len(found) == 2:
                        return sum(number == version for number in found)
                    await asyncio.sleep(0.05)

        return self.thread.call(wait())

    def signal(self, index: int, number: signal.Signals) -> None:
        """To every process of an engine but its guardian."""
        process = self.thread.pool.engines[index].process
        assert process is not None
        from sdpo_megatron.process_tree import descendants

        for pid in descendants(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def drop_connection(self, index: int) -> None:
        """Shut every connection between this process and an engine but those of HTTP."""
        import psutil

        engine = self.thread.pool.engines[index]
        control = int(engine.name.rpartition(":")[2])
        for ours in psutil.Process().net_connections("tcp"):
            if ours.status != psutil.CONN_ESTABLISHED or ours.raddr.port == control:
                continue
            theirs = self._connections_of(engine)
            if (ours.raddr, ours.laddr) in theirs:
                with socket.socket(fileno=os.dup(ours.fd)) as end:
                    end.shutdown(socket.SHUT_RDWR)

    def _connections_of(self, engine: Any) -> set[tuple[Any, Any]]:
        import psutil

        from sdpo_megatron.process_tree import descendants

        found = set()
        for pid in descendants(engine.process.pid):
            with contextlib.suppress(psutil.Error):
                for connection in psutil.Process(pid).net_connections("tcp"):
                    found.add((connection.laddr, connection.raddr))
        return found

    def flip_bits(self) -> None:
        self._flip = True

    def _buckets(self, folder: str, buffers: Any, during: Callable[[], None]) -> Iterator[Bucket]:
        from safetensors.torch import load_file

        tensors = load_file(Path(folder) / "model.safetensors")
        names = list(tensors)
        size = -(-len(names) // NUM_BUCKETS)
        for number in range(NUM_BUCKETS):
            part: Iterable[str] = names[number * size : (number + 1) * size]
            metas = tuple(TensorMeta(n, tuple(tensors[n].shape), tensors[n].dtype) for n in part)
            bucket = Bucket(metas, buffers(sum(meta.num_bytes for meta in metas)))
            for name, view in bucket.tensors():
                view.copy_(tensors[name])
            if number == 1:
                during()
            yield bucket
