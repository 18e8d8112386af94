"""When an engine gives its GPU memory back and takes it again: the order of the calls.

The engine is a stand-in that hears them and holds "weights" as a GPU would: what was released is
of no meaning until it is loaded. test_engine.py asks a real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from safetensors.torch import save_file

from sdpo_megatron.errors import EngineError
from sdpo_megatron.nouns import PolicyVersion
from serving import memory
from serving.client import EngineClient
from serving.command import engine_flags
from serving.config import EngineConfig
from serving.swapping.hot_swap import swap

GARBAGE = "f" * 64


class StandIn:
    """Attributes:
    heard: Paths of the calls, with the tags of those about memory.
    held: What it has on its GPU.
    weights: Checksum of the weights that it holds.
    """

    def __init__(self, *, fails: str = "") -> None:
        self.heard: list[str] = []
        self.held = {"weights", "kv_cache", "cuda_graph"}
        self.weights = "1" * 64
        self.fails = fails

    async def answer(self, request: web.Request) -> web.Response:
        body: dict[str, Any] = await request.json() if request.can_read_body else {}
        tags = body.get("tags", ())
        self.heard.append(" ".join([request.path.removeprefix("/"), *tags]))
        if request.path == self.fails:
            return web.Response(status=400, text="no")
        if request.path == "/release_memory_occupation":
            self.held -= set(tags)
            self.weights = GARBAGE
        if request.path == "/resume_memory_occupation":
            assert not self.held & set(tags), "it has that already"  # SGLang's scheduler would end
            self.held |= set(tags)
        if request.path == "/update_weights_from_disk":
            assert "weights" in self.held
            self.weights = "2" * 64
        if request.path == "/weights_checker":
            assert "weights" in self.held
            return web.json_response({"per_engine_checksum": self.weights, "ranks": []})
        # As SGLang 0.5.23 answers these two.
        return web.json_response(None if "memory" in request.path else {"success": True})


@asynccontextmanager
async def talking_to(engine: StandIn) -> AsyncIterator[EngineClient]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", engine.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    client = EngineClient(f"http://127.0.0.1:{port}", EngineConfig())
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    return tmp_path


def test_weights_have_room_before_they_are_loaded_and_the_cache_has_it_last(weights: Path) -> None:
    engine = StandIn()

    async def use() -> None:
        async with talking_to(engine) as client:
            await memory.release(client)
            assert not engine.held
            version = PolicyVersion(2, "2" * 64)
            assert await swap([client], weights, version) == {}
            assert client.released == ()

    asyncio.run(use())
    assert engine.heard == [
        "pause_generation",
        "release_memory_occupation weights kv_cache cuda_graph",
        "pause_generation",
        "update_weight_version",  # mixed
        "resume_memory_occupation weights",
        "end_weight_update",  # one that somebody left open
        "update_weights_from_disk",
        "weights_checker",
        "resume_memory_occupation kv_cache cuda_graph",
        "update_weight_version",
        "continue_generation",
    ]


def test_an_engine_that_has_its_memory_is_asked_for_none(weights: Path) -> None:
    engine = StandIn()

    async def use() -> None:
        async with talking_to(engine) as client:
            assert await swap([client], weights, PolicyVersion(2, "2" * 64)) == {}

    asyncio.run(use())
    assert not [call for call in engine.heard if "memory" in call]


def test_what_lay_in_released_memory_is_never_served_again(weights: Path) -> None:
    """The load fails, and the checksum of what is there has not changed: it is that of nothing."""
    engine = StandIn(fails="/update_weights_from_disk")

    async def use() -> Any:
        async with talking_to(engine) as client:
            await memory.release(client)
            return await swap([client], weights, PolicyVersion(2, "2" * 64))

    assert len(asyncio.run(use())) == 1
    assert "continue_generation" not in engine.heard


def test_a_second_try_asks_for_what_is_still_missing(weights: Path) -> None:
    engine = StandIn(fails="/update_weights_from_disk")

    async def use() -> None:
        async with talking_to(engine) as client:
            await memory.release(client)
            await swap([client], weights, PolicyVersion(2, "2" * 64))
            engine.fails = ""
            assert await swap([client], weights, PolicyVersion(2, "2" * 64)) == {}

    asyncio.run(use())
    assert engine.held == {"weights", "kv_cache", "cuda_graph"}


def test_an_engine_that_refuses_is_an_error() -> None:
    engine = StandIn(fails="/release_memory_occupation")

    async def use() -> None:
        async with talking_to(engine) as client:
            await memory.release(client)

    with pytest.raises(EngineError, match="release_memory_occupation: HTTP 400"):
        asyncio.run(use())


@pytest.mark.parametrize(("device", "told"), [("cuda", True), ("cpu", False)])
def test_sglang_is_told_to_keep_its_memory_releasable(device: Any, told: bool) -> None:
    config = EngineConfig(device=device, release_memory=True)
    assert ("--enable-memory-saver" in engine_flags(config, Path("m"), 1, 0)) == told
