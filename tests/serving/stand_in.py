"""A stand-in of an engine in a few lines of HTTP, for tests of who asks whom and when.

It answers what SGLang answers to the calls that pool, router and gateway make, keeps no weights,
and can be told to misbehave. Tests of what an engine does with weights have the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from sdpo_megatron.ports import hold_port

HASH = "0" * 64


class StandIn:
    """Attributes:
    version: What it calls its weights.
    checksum: What it says they hash to.
    named: Every name that its weights were given.
    asked: Paths of all calls, in order.
    hang: Paths that are never answered.
    refuse: Paths that are answered with 400.
    paused: Generation waits.
    """

    def __init__(self) -> None:
        self.version: int | str = 0
        self.checksum = HASH
        self.named: list[str] = []
        self.asked: list[str] = []
        self.hang: set[str] = set()
        self.refuse: set[str] = set()
        self.paused = False
        self.seconds_a_request = 0.0
        self.before: Callable[[str], None] = lambda path: None
        self._held = hold_port("127.0.0.1")
        self.port = int(self._held.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._runner: web.AppRunner | None = None

    async def start(self, version: int = 0) -> None:
        self.version = version  # a new process serves what lies on the disk
        self.paused = False
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._held.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.asked.append(path)
        self.before(path)
        if path in self.hang:
            await asyncio.Event().wait()
        if path in self.refuse:
            return web.json_response({"success": False, "message": "no"}, status=400)
        body: dict[str, Any] = await request.json() if request.can_read_body else {}
        if path == "/generate":
            return await self._generate()
        return web.json_response(self._control(path, body))

    async def _generate(self) -> web.Response:
        await asyncio.sleep(self.seconds_a_request)
        while self.paused:
            await asyncio.sleep(0.01)
        return web.json_response(generated(self.version))

    def _control(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/update_weight_version":
            self.version = body["new_version"]
            self.named.append(body["new_version"])
        elif path in ("/pause_generation", "/continue_generation"):
            self.paused = path == "/pause_generation"
        elif path == "/weights_checker":
            ranks = [{"checksums": {}}]
            return {"success": True, "per_engine_checksum": self.checksum, "ranks": ranks}
        elif path in ("/model_info", "/get_model_info"):
            return {"weight_version": str(self.version), "model_path": "m", "is_generation": True}
        elif path in ("/server_info", "/get_server_info"):
            return {"model_path": "m", "served_model_name": "m", "tp_size": 1, "dp_size": 1}
        return {"success": True}


def generated(version: int | str) -> dict[str, Any]:
    """SGLang's answer to /generate: one token."""
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
