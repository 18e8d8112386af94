"""A real SGLang gateway (sglang-router) in front of stand-ins for engines: it keeps answers when an
engine dies, requests outlast the gateway's own death, and control calls go past it."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.ports import hold_port
from serving import recovery, router
from serving.completion import SamplingParams
from serving.config import EngineConfig
from serving.pool import EnginePool
from tests.serving.stand_in import HASH, StandIn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        importlib.util.find_spec("sglang_router") is None,
        reason="sglang-router, the gateway, is not installed (extra dev)",
    ),
]


class Gateway:
    """The gateway's process, on one port for all its lives."""

    def __init__(self, *engines: StandIn) -> None:
        with hold_port("127.0.0.1") as held:
            self.port = int(held.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._workers = [engine.url for engine in engines]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--policy", "cache_aware"]
        words += ["--health-check-interval-secs", "1", "--worker-urls", *self._workers]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sglang_router.launch_router", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@asynccontextmanager
async def _behind_a_gateway(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[EnginePool, Gateway, list[StandIn]]]:
    monkeypatch.setattr(recovery, "URL_RETRY_S", 0.05)
    monkeypatch.setattr(router, "_GATEWAY_RETRY_S", 0.1)
    engines = [StandIn(), StandIn()]
    for engine in engines:
        await engine.start()
    gateway = Gateway(*engines)
    gateway.start()
    config = EngineConfig(
        urls=tuple(engine.url for engine in engines),
        gateway=gateway.url,
        start_timeout_s=120.0,
        health_interval_s=0.0,
    )
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    try:
        async with EnginePool(config, "unused", folder) as pool:
            await pool.publish(folder, PolicyVersion(4, HASH))
            yield pool, gateway, engines
    finally:
        gateway.kill()
        for engine in engines:
            await engine.stop()


async def _ask(pool: EnginePool, prompt: int) -> list[int]:
    completion = await pool.generate([prompt], SamplingParams(max_new_tokens=1))
    return [span.version for span in completion.versions]


def test_deaths_behind_it_and_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with _behind_a_gateway(tmp_path, monkeypatch) as (pool, gateway, engines):
            # Asked while the gateway still starts.
            assert await _ask(pool, 1) == [4]
            assert all(engine.named == ["mixed", "4"] for engine in engines)
            (used,) = [engine for engine in engines if "/generate" in engine.asked]
            (other,) = [engine for engine in engines if engine is not used]
            await used.stop()
            answers = await asyncio.gather(*(_ask(pool, prompt) for prompt in range(8)))
            assert answers == [[4]] * 8
            assert "/generate" in other.asked
            gateway.kill()
            waiting = asyncio.ensure_future(_ask(pool, 9))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            gateway.start()
            assert await waiting == [4]

    asyncio.run(main())


def test_an_engine_that_restarted_unseen_is_found_and_reloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with _behind_a_gateway(tmp_path, monkeypatch) as (pool, _, engines):
            assert await _ask(pool, 1) == [4]
            for engine in engines:
                engine.version = 0
            assert await _ask(pool, 1) == [4]
            assert pool.num_restarts >= 1

    asyncio.run(main())
