"""Engines that somebody else runs: any order of starting, going, coming back, and stale weights.

The engine here is a stand-in, since what is tested is when the pool asks whom; test_pool.py has the
real one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdpo_megatron.errors import EngineDiedError
from sdpo_megatron.nouns import PolicyVersion
from serving import pool as pools
from serving import recovery
from serving.completion import SamplingParams
from serving.config import EngineConfig
from serving.pool import EnginePool
from tests.serving.stand_in import HASH, StandIn


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "URL_RETRY_S", 0.02)
    monkeypatch.setattr(pools, "REFRESH_S", 0.02)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder that can be published."""
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    return tmp_path


def _pool(
    tmp_path: Path, heard: list[str], *urls: str, start_timeout_s: float = 60.0
) -> EnginePool:
    config = EngineConfig(urls=urls, start_timeout_s=start_timeout_s, health_interval_s=0.0)
    return EnginePool(config, "unused", tmp_path, progress=heard.append)


async def _ask(pool: EnginePool) -> list[int]:
    completion = await pool.generate([1], SamplingParams(max_new_tokens=1))
    return [span.version for span in completion.versions]


def test_engines_may_start_after_the_run(tmp_path: Path) -> None:
    async def main() -> None:
        first, second, heard = StandIn(), StandIn(), []
        pool = _pool(tmp_path, heard, first.url, second.url)
        finding = asyncio.create_task(pool.__aenter__())
        await asyncio.sleep(0.1)
        assert heard == ["engines: 0 of 2 answer; waiting for the rest"]
        await first.start()
        while not pool.ready:
            await asyncio.sleep(0.01)
        assert not finding.done()
        await second.start()
        await finding
        assert heard[-1] == "engines: 2 of 2 answer"
        await pool.__aexit__()
        await first.stop()
        await second.stop()

    asyncio.run(main())


def test_a_run_begins_with_those_that_came_in_time(tmp_path: Path, weights: Path) -> None:
    async def main() -> None:
        first, late, heard = StandIn(), StandIn(), []
        await first.start()
        async with _pool(tmp_path, heard, first.url, late.url, start_timeout_s=0.5) as pool:
            assert [engine.name for engine in pool.ready] == [first.url]
            await pool.publish(weights, PolicyVersion(4, HASH))
            await late.start()
            while len(pool.ready) < 2:
                await asyncio.sleep(0.01)
            assert late.version == "4"
            assert heard[-1] == f"engine {late.url} joins, serving policy version 4"
        await first.stop()
        await late.stop()

    asyncio.run(main())


def test_a_pod_that_was_restarted_unseen_does_not_serve_old_weights(
    tmp_path: Path, weights: Path
) -> None:
    async def main() -> None:
        engine, heard = StandIn(), []
        await engine.start()
        async with _pool(tmp_path, heard, engine.url) as pool:
            await pool.publish(weights, PolicyVersion(7, HASH))
            assert await _ask(pool) == [7]
            engine.version = 0  # as after a restart between two requests
            assert await _ask(pool) == [7]
            assert any("serves policy version 0 instead of 7" in line for line in heard)
            assert pool.num_restarts == 1
        await engine.stop()

    asyncio.run(main())


def test_a_run_without_an_engine_waits_and_then_says_why(tmp_path: Path) -> None:
    async def main() -> None:
        engine, heard = StandIn(), []
        await engine.start()
        async with _pool(tmp_path, heard, engine.url, start_timeout_s=2.0) as pool:
            await engine.stop()
            waiting = asyncio.create_task(_ask(pool))
            await asyncio.sleep(0.5)
            assert not waiting.done()  # as long as its pod may come back
            await engine.start()
            assert await waiting == [0]
            await engine.stop()
            with pytest.raises(EngineDiedError, match=rf"left after 2 s:\n- {engine.url}: "):
                await _ask(pool)

    asyncio.run(main())


def test_scaling_a_name_up_and_down_is_noticed(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        first, second, heard = StandIn(), StandIn(), []
        await first.start()
        await second.start()
        known = [first.url]

        async def addresses(url: str) -> list[str]:
            assert url == "dns+http://engines:30000"
            return list(known)

        monkeypatch.setattr(pools, "addresses_of", addresses)
        async with _pool(tmp_path, heard, "dns+http://engines:30000") as pool:
            await pool.publish(weights, PolicyVersion(2, HASH))
            known.append(second.url)
            while len(pool.ready) < 2:
                await asyncio.sleep(0.01)
            assert second.version == "2"
            known.remove(first.url)
            await first.stop()
            assert await _ask(pool) == [2]
            while len(pool.engines) > 1:
                await _ask(pool)
                await asyncio.sleep(0.01)
            assert f"engine {first.url} is gone for good" in "".join(heard)
        await second.stop()

    asyncio.run(main())
