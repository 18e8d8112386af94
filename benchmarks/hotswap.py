"""What a hot swap costs, by transport and number of engines, beside a copy of the same bytes.

    python benchmarks/hotswap.py [--model FOLDER] [--engines 1 2] [--simulated 300]

A trainer of one rank publishes SmolLM2 to real engines on this machine, in bfloat16, the checksum
compared on both sides. Each repetition swaps once by every transport and copies the same bytes once
(`memcpy`, into memory that was touched before), so that all see the same moment of the machine:
compare ratios, not seconds. Aims: distributed within 6 x memcpy, tensor within 15 x, pause within
1.5 x the swap.

swap       from `begin` to the last engine that serves the new version
pause      of one engine: between its last token before and its first possible one after
parts      what a verified swap cannot do without, each alone and by one thread, as multiples of the
           copy: casting float32 to bfloat16, a broadcast of the bytes between two processes over
           gloo, SHA-256 of the bytes (SGLang's checksum, once at the engine, after the last byte)
simulated  begin and finish over engines that are a few lines of HTTP: what each engine costs the
           controller, without any weights
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp import web

from sdpo_megatron.nouns import PolicyVersion
from serving.config import EngineConfig
from serving.pool import EnginePool
from serving.swapping.swap_config import SwapConfig
from serving.swapping.swap_target import StageReport, SwapTarget

KINDS = ("tensor", "distributed", "disk")
AIMS = {"distributed": 6.0, "tensor": 15.0}


class Controller:
    """Rank 0's side of swaps over a pool, with a clock. A context manager."""

    def __init__(self, pool: EnginePool) -> None:
        self.pool = pool
        self.seconds: dict[str, float] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Controller:
        self._thread.start()
        self._call(self.pool.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self.pool.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def begin_swap(self, number: int, *, stream: bool) -> SwapTarget:
        self._began = time.perf_counter()
        return self._call(self.pool.begin(number, stream=stream))

    def finish_swap(
        self,
        version: PolicyVersion,
        folder: Path,
        reports: Sequence[StageReport],
        transport: str,
    ) -> None:
        failures = {url: why for report in reports for url, why in report.failures.items()}
        assert not failures, failures
        self._call(self.pool.finish(version, folder, stream=transport != "disk"))
        self.seconds = {"pause": time.perf_counter() - self._began}
        for report in reports:
            self.seconds |= report.seconds

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def real(model: Path, num_engines: int, repetitions: int) -> dict[str, Any]:
    """Medians over the repetitions, the first left out; runs in a process of its own."""
    from sdpo_megatron.actor.runtime import start_runtime

    runtime = start_runtime("cpu")
    runtime.init_process_group()
    import torch

    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel
    from sdpo_megatron.loops.publish import Publisher
    from sdpo_megatron.weights.load import load_hf_weights
    from sdpo_megatron.weights.spec import ModelSpec

    torch.set_num_threads(1)
    spec, layout = ModelSpec.from_folder(model), ParallelConfig()
    init_model_parallel(layout)
    chunks = build_model(spec, layout, PrecisionConfig(dtype="fp32"))
    load_hf_weights(chunks, spec, model)
    actor: Any = SimpleNamespace(chunks=chunks, spec=spec)
    config = EngineConfig(
        device="cpu",
        dtype="bfloat16",
        threads=1,
        num_engines=num_engines,
        max_total_tokens=2048,
        swap=SwapConfig(deadline_s=600.0),
    )
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    copies: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Controller(EnginePool(config, model, folder, progress=print)) as controller,
    ):
        out = Path(folder) / "versions"
        publishers = {kind: Publisher(actor, model, out, config, kind) for kind in KINDS}
        size = sum(p.numel() for p in chunks[0].parameters()) * 2
        source, target = (torch.ones(size, dtype=torch.uint8) for _ in range(2))
        number = 0
        for _ in range(repetitions + 1):
            for kind, publisher in publishers.items():
                number += 1
                start = time.perf_counter()
                publisher.publish(number, controller)  # type: ignore[arg-type]
                swap = time.perf_counter() - start
                publisher.wait()
                found[kind].append({"swap": swap, **controller.seconds})
            start = time.perf_counter()
            target.copy_(source)
            copies.append(time.perf_counter() - start)
        for publisher in publishers.values():
            publisher.close()
    memcpy = statistics.median(copies[1:])
    return {
        "bytes": size,
        "memcpy_s": memcpy,
        **{kind: _summary(kind, rows[1:], size, memcpy) for kind, rows in found.items()},
    }


def _summary(
    kind: str, rows: Sequence[dict[str, float]], size: int, memcpy: float
) -> dict[str, Any]:
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    times_memcpy = middle["swap"] / memcpy
    summary = {
        "seconds": {name: round(value, 4) for name, value in middle.items()},
        "gb_per_s": round(size / middle["swap"] / 1e9, 3),
        "times_memcpy": round(times_memcpy, 2),
        "pause_over_swap": round(middle["pause"] / middle["swap"], 2),
    }
    if kind in AIMS:
        summary["aim"] = AIMS[kind]
        summary["met"] = times_memcpy <= AIMS[kind]
    return summary


def parts(num_bytes: int, repetitions: int) -> dict[str, float]:
    """Seconds of each part alone, of so many bytes."""
    import torch

    torch.set_num_threads(1)
    target = torch.ones(num_bytes // 2, dtype=torch.bfloat16)
    source = torch.ones(num_bytes // 2)
    other = torch.ones_like(target)
    seconds = {
        "memcpy": _median(lambda: target.copy_(other), repetitions),
        "cast": _median(lambda: target.copy_(source), repetitions),
        "sha256": _median(
            lambda: hashlib.sha256(target.view(torch.uint8).numpy()).digest(), repetitions
        ),
    }
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(2) as pool:
        given = [(rank, f"{folder}/store", num_bytes, repetitions) for rank in range(2)]
        seconds["gloo_broadcast"] = max(pool.starmap(_broadcast, given))
    return seconds


def _broadcast(rank: int, store: str, num_bytes: int, repetitions: int) -> float:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    flat = torch.ones(num_bytes, dtype=torch.uint8)

    def broadcast() -> None:
        dist.broadcast(flat, src=0)
        dist.barrier()

    seconds = _median(broadcast, repetitions)
    dist.destroy_process_group()
    return seconds


def _median(work: Callable[[], Any], repetitions: int) -> float:
    """Of its seconds, the first left out."""
    seconds = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def simulated(count: int, repetitions: int) -> dict[str, float]:
    """Seconds of begin and finish over `count` engines that answer at once."""
    context = multiprocessing.get_context("spawn")
    ports: Any = context.Queue()
    server = context.Process(target=_serve_many, args=(count, ports), daemon=True)
    server.start()
    urls = tuple(f"http://127.0.0.1:{port}" for port in ports.get(timeout=60))
    config = EngineConfig(urls=urls, health_interval_s=0.0)

    async def swaps() -> float:
        seconds = []
        async with EnginePool(config, "unused", "unused", progress=lambda _: None) as pool:
            for number in range(1, repetitions + 2):
                start = time.perf_counter()
                await pool.begin(number)
                await pool.finish(PolicyVersion(number, "0"), Path("unused"))
                seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])

    try:
        median = asyncio.run(swaps())
    finally:
        server.terminate()
        server.join()
    return {"seconds": round(median, 4), "ms_an_engine": round(1e3 * median / count, 3)}


def _serve_many(count: int, ports: Any) -> None:
    async def answer(request: web.Request) -> web.Response:
        known = {"success": True, "per_engine_checksum": "0", "ranks": [], "weight_version": "0"}
        return web.json_response(known)

    async def main() -> None:
        runners = []
        for _ in range(count):
            app = web.Application()
            app.router.add_route("*", "/{rest:.*}", answer)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            runners.append(runner)
        ports.put([runner.addresses[0][1] for runner in runners])
        await asyncio.Event().wait()

    asyncio.run(main())


def _in_a_process(model: Path, num_engines: int, repetitions: int) -> dict[str, Any]:
    """Megatron's model-parallel state is one a process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(real, (model, num_engines, repetitions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct"))
    parser.add_argument("--engines", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--simulated", type=int, nargs="*", default=[1, 30, 300])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.engines and not (given.model / "config.json").is_file():
        from sdpo_megatron.weights.smollm2 import prepare

        prepare(given.model)
    results: dict[str, Any] = {
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "simulated": {str(n): simulated(n, given.repetitions) for n in given.simulated},
        "engines": {
            str(n): _in_a_process(given.model, n, given.repetitions) for n in given.engines
        },
    }
    if given.engines:
        first = results["engines"][str(given.engines[0])]
        seconds = parts(first["bytes"], given.repetitions)
        results["parts"] = {
            name: {"seconds": round(value, 4), "times_memcpy": round(value / seconds["memcpy"], 1)}
            for name, value in seconds.items()
        }
    print(json.dumps(results, indent=2))
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
