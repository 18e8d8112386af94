"""Engines that somebody else runs: any order of starting, going, coming back, and stale weights.

The engine here is a stand-in of a few lines, since what is tested is when the pool asks whom;
test_pool.py has the real one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from safetensors.torch import save_file

from sdpo_megatron.errors import EngineDiedError
from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.ports import hold_port
from serving import pool as pools
from serving.completion import SamplingParams
from serving.config import EngineConfig
from serving.pool import EnginePool

HASH = "0" * 64


class StandIn:
    """The calls of SGLang's HTTP interface that the pool makes. `version` is what it serves."""

    def __init__(self) -> None:
        self.version = 0
        self._held = hold_port("127.0.0.1")
        self.port = int(self._held.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        self.version = 0  # a new process serves what lies on the disk
        app = web.Application()
        app.router.add_get("/model_info", self._info)
        app.router.add_route("*", "/{rest:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._held.close()

    async def _info(self, _request: web.Request) -> web.Response:
        return web.json_response({"weight_version": str(self.version)})

    async def _answer(self, request: web.Request) -> web.Response:
        body: dict[str, Any] = await request.json() if request.can_read_body else {}
        if request.path == "/update_weight_version":
            self.version = int(body["new_version"])
        if request.path == "/weights_checker":
            return web.json_response(
                {"success": True, "per_engine_checksum": HASH, "ranks": [{"checksums": {}}]}
            )
        if request.path == "/generate":
            return web.json_response(_generated(self.version))
        return web.json_response({"success": True})


def _generated(version: int) -> dict[str, Any]:
    return {
        "text": "",
        "output_ids": [5],
        "meta_info": {
            "id": "1",
            "finish_reason": {"type": "length", "length": 1},
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "output_token_logprobs": [[-0.5, 5, None]],
            "weight_version": str(version),
        },
    }


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_URL_RETRY_S", 0.02)
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
        async with _pool(tmp_path, heard, first.url, second.url) as pool:
            finding = asyncio.create_task(pool.find())
            await asyncio.sleep(0.1)
            assert heard == ["engines: 0 of 2 answer; waiting for the rest"]
            await first.start()
            while not pool.ready:
                await asyncio.sleep(0.01)
            assert not finding.done()
            await second.start()
            await finding
            assert heard[-1] == "engines: 2 of 2 answer"
        await first.stop()
        await second.stop()

    asyncio.run(main())


def test_a_run_begins_with_those_that_came_in_time(tmp_path: Path, weights: Path) -> None:
    async def main() -> None:
        first, late, heard = StandIn(), StandIn(), []
        await first.start()
        async with _pool(tmp_path, heard, first.url, late.url, start_timeout_s=0.5) as pool:
            await pool.find()
            assert [engine.name for engine in pool.ready] == [first.url]
            await pool.publish(weights, PolicyVersion(4, HASH))
            await late.start()
            while len(pool.ready) < 2:
                await asyncio.sleep(0.01)
            assert late.version == 4
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
            await pool.find()
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
            await pool.find()
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
            await pool.find()
            await pool.publish(weights, PolicyVersion(2, HASH))
            known.append(second.url)
            while len(pool.ready) < 2:
                await asyncio.sleep(0.01)
            assert second.version == 2
            known.remove(first.url)
            await first.stop()
            assert await _ask(pool) == [2]
            while len(pool.engines) > 1:
                await _ask(pool)
                await asyncio.sleep(0.01)
            assert f"engine {first.url} is gone for good" in "".join(heard)
        await second.stop()

    asyncio.run(main())
