"""A real rollout worker under a real crew, with an engine that is a stand-in of a few lines: what
is tested is who has which group, not what is sampled. tests/loops/test_asynchrony.py has real ones.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from sdpo_megatron import config as configs
from sdpo_megatron.loops.questions import question_at
from sdpo_megatron.loops.workers.crew import Crew
from sdpo_megatron.nouns import PolicyVersion, Question
from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.run_folder import RunFolder
from sdpo_megatron.ports import hold_port
from sdpo_megatron.rollout.desk import Desk
from sdpo_megatron.rollout.ledger.ledger import Ledger
from sdpo_megatron.rollout.ledger.lines import Place
from sdpo_megatron.tasks import load_task
from serving.pool import EnginePool
from tests.loops import runs

HASH = "0" * 64


class SlowEngine:
    """Answers each request with one token once `gate` is open; says the version it serves."""

    def __init__(self) -> None:
        self.version, self.label = 0, "0"
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._held = hold_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self._held.getsockname()[1]}"

    async def __aenter__(self) -> SlowEngine:
        app = web.Application()
        app.router.add_get("/model_info", self._info)
        app.router.add_post("/generate", self._generate)
        app.router.add_route("*", "/{rest:.*}", self._control)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        port = int(self.url.rpartition(":")[2])
        await web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        await self._runner.cleanup()
        self._held.close()

    async def _info(self, _request: web.Request) -> web.Response:
        return web.json_response({"weight_version": self.label})

    async def _control(self, request: web.Request) -> web.Response:
        body: dict[str, Any] = await request.json() if request.can_read_body else {}
        if request.path == "/update_weight_version":
            self.label = body["new_version"]
            self.version = int(self.label) if self.label.isdecimal() else self.version
        facts = {"success": True, "per_engine_checksum": HASH, "ranks": [{"checksums": {}}]}
        return web.json_response(facts)

    async def _generate(self, request: web.Request) -> web.Response:
        """Two tokens: the first before, the second after the gate."""
        await request.json()
        self.asked += 1
        first = self.version
        await self.gate.wait()
        spans = [{"version": str(first), "start": 0, "end": 1 if self.version > first else 2}]
        spans += [{"version": str(self.version), "start": 1, "end": 2}][: self.version - first]
        meta = {
            "finish_reason": {"type": "length", "length": 2},
            "output_token_logprobs": [[-0.5, 60, None], [-0.25, 61 + self.asked % 3, None]],
            "weight_versions": spans,
        }
        tokens = [row[1] for row in meta["output_token_logprobs"]]  # type: ignore[attr-defined]
        return web.json_response({"text": "", "output_ids": tokens, "meta_info": meta})


class Scene:
    """A crew that is open, and what the test needs of it."""

    def __init__(
        self,
        crew: Crew,
        desk: Desk,
        engine: SlowEngine,
        board: Board,
        pool: EnginePool,
        questions: tuple[Question, ...],
        heard: list[str],
    ) -> None:
        self.crew, self.desk, self.engine, self.board = crew, desk, engine, board
        self.pool, self.questions, self.heard = pool, questions, heard

    @property
    def book(self) -> Any:
        return self.desk.ledger.book

    def worker_pid(self) -> int:
        """Of the worker itself, below its guardian."""
        import psutil

        workers = [
            process
            for process in psutil.Process(os.getpid()).children(recursive=True)
            if "sdpo_megatron.loops.workers.worker" in process.cmdline()[:4]
        ]
        (worker,) = workers
        return int(worker.pid)

    async def until(self, condition: Any) -> None:
        """Wait for what must come true; pytest's own limit ends a test where it does not."""
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def scene(
    model: Path, folder: Path, *overrides: str, engine: SlowEngine | None = None
) -> AsyncIterator[Scene]:
    """A crew of one worker on a new run folder, at its first version."""
    async with engine or SlowEngine() as engine:
        config = configs.load(
            [
                *runs.overrides(model, folder),
                f"rollout.engine.urls=[{engine.url}]",
                "rollout.sampling.concurrency=64",
                *overrides,
            ]
        )
        run = RunFolder(folder)
        configs.save(config, run.config_file)
        board, heard = Board(), []
        pool = EnginePool(config.rollout.engine, model, run.logs, progress=heard.append)
        crew = Crew(config, folder, pool, heard.append, board)
        desk = Desk(
            Ledger(run.rollouts),
            run.rollouts / "groups",
            batch=config.batch.questions,
            eta=config.rollout.max_staleness,
            steps=10**6,
            lease_s=config.rollout.workers.lease_timeout_s,
            max_replaced=config.rollout.max_replaced,
        )
        desk.resume(0, 0, Place())
        questions = load_task(config.task).questions
        try:
            await crew.open()
            await pool.__aenter__()
            crew.engines_are_up()
            await crew.wait_ready()
            crew.begin(desk, lambda at: question_at(questions, at, seed=0).id, lambda _: None)
            yield Scene(crew, desk, engine, board, pool, questions, heard)
        finally:
            await crew.close()
            await pool.__aexit__()


async def publish(scene: Scene, number: int, model: Path) -> None:
    """As the trainer does after a step."""
    await scene.pool.publish(model, PolicyVersion(number, HASH))
    scene.crew.published(number)
