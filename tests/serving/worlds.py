"""Trainers of a few ranks that hold given weights and publish them to engines, for tests of swaps.

A world is what `loops.trainer` is in a run, without training: Megatron's model under a parallel
layout, a `Publisher` on every rank, and on rank 0 a pool in a thread's event loop.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sdpo_megatron.nouns import PolicyVersion
from serving.config import EngineConfig
from serving.pool import EnginePool

LAYOUT = {"tensor": 2, "pipeline": 2}


@dataclass(frozen=True)
class Job:
    """What a world is to do: for each step, the weights of `folder` by `transport`.

    Attributes:
        steps: (version, transport, folder), in order.
        engine: Of the engines, which are given by URL.
        source: The folder that they started from; versions go below `out`.
    """

    steps: Sequence[tuple[int, str, str]]
    engine: EngineConfig
    source: str
    out: str
    layout: Mapping[str, int] = field(default_factory=lambda: LAYOUT)


class PoolThread:
    """`Coordinator`'s side of a swap, over a pool that runs in a thread of its own."""

    def __init__(self, pool: EnginePool) -> None:
        self.pool = pool
        self.reports: list[Any] = []
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def begin_swap(self, number: int, *, stream: bool) -> Any:
        return self.call(self.pool.begin(number, stream=stream))

    def finish_swap(
        self, version: PolicyVersion, folder: Path, reports: Sequence[Any], transport: str
    ) -> None:
        self.reports += reports
        failures = {url: why for report in reports for url, why in report.failures.items()}
        self.call(self.pool.finish(version, folder, stream=transport != "disk", failures=failures))


def publish(rank: int, world: int, job: Job) -> dict[str, Any]:
    """In every rank. Rank 0 returns each version's checksum, and what the pool did with engines."""
    from megatron.core import parallel_state

    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel
    from sdpo_megatron.loops.publish import Publisher
    from sdpo_megatron.weights.load import load_hf_weights
    from sdpo_megatron.weights.spec import ModelSpec

    spec, layout = ModelSpec.from_folder(job.source), ParallelConfig(**job.layout)
    init_model_parallel(layout)
    chunks = build_model(spec, layout, PrecisionConfig(dtype="fp32"))
    actor: Any = SimpleNamespace(chunks=chunks, spec=spec)
    heard: list[str] = []
    coordinator: Any = None
    if rank == 0:
        coordinator = PoolThread(EnginePool(job.engine, job.source, job.out, progress=heard.append))
        coordinator.call(coordinator.pool.__aenter__())
    publishers: dict[str, Publisher] = {}
    checksums = []
    for number, kind, folder in job.steps:
        load_hf_weights(chunks, spec, folder)
        if kind not in publishers:
            publishers[kind] = Publisher(actor, Path(job.source), Path(job.out), job.engine, kind)
        checksums.append(publishers[kind].publish(number, coordinator).checksum)
        if rank == 0:
            publishers[kind].wait()
    for publisher in publishers.values():
        publisher.close()
    result: dict[str, Any] = {"checksums": checksums}
    if coordinator:
        result["heard"] = heard
        result["failures"] = [dict(report.failures) for report in coordinator.reports]
        result["bytes"] = [report.num_bytes for report in coordinator.reports]
        coordinator.call(coordinator.pool.__aexit__())
    parallel_state.destroy_model_parallel()
    return result


def varied(folder: Path, out: Path, seed: int) -> Path:
    """The checkpoint in `folder` with every tensor changed, in `out`."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, out, dirs_exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(folder / "model.safetensors")
    changed = {
        name: tensor * (1 + 0.3 * torch.randn(tensor.shape, generator=generator))
        for name, tensor in tensors.items()
    }
    save_file(changed, out / "model.safetensors", metadata={"format": "pt"})
    return out
