"""The engines of a run: which serve, which are out, and how one comes back.

    ready ──dies or fails a swap──► out ──restarted, current version loaded and verified──► ready
                                     └──more than max_restarts, or it does not come up──► lost

The pool starts engines, watches them and brings them to a version. Requests are sent by a `Router`,
here or in another process, which is told who is ready (`listen`) and tells what it finds wrong
(`complain`).

Engines that somebody else runs (URLs) may come up before or after us, go and come back, and be more
or fewer later: they begin as out, are never lost, and are missed for `start_timeout_s` before a run
without any gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sdpo_megatron.addresses import DNS_PREFIX, REFRESH_S, addresses_of
from sdpo_megatron.errors import EngineDiedError, EngineError
from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.observability.board import Board
from serving.client import EngineClient
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig
from serving.hot_swap import DiskTransport, SwapFailure, Transport, swap
from serving.launch import EngineProcess
from serving.router import Roster, Router, Served

log = logging.getLogger(__name__)

_URL_RETRY_S = 5.0
_FIND_POLL_S = 0.1
_OF_AN_ENGINE = (
    "sdpo_engine_up", "sdpo_engine_requests_in_flight", "sdpo_engine_policy_version",
)  # fmt: skip
_HEALTH_FAILURES = 3


@dataclass(eq=False)
class Engine:
    """One engine as the pool sees it. `process` is None for an engine that somebody else runs."""

    client: EngineClient
    process: EngineProcess | None
    state: Literal["ready", "out", "lost"] = "ready"
    in_flight: int = 0
    restarts: int = 0
    why: str = ""
    joined: bool = False  # has been ready before
    recovery: asyncio.Task[None] | None = field(default=None, repr=False)
    watch: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.client.url

    @property
    def served(self) -> Served:
        """Its name for routers, which another life does not share."""
        return Served(self.client.url, self.restarts)

    @property
    def label(self) -> str:
        """Its name in metrics: the same after a restart on another port."""
        return f"engine-{self.process.index}" if self.process else self.client.url


class EnginePool:
    """Use it from one event loop.

    `start`, `close` and the constructor may be called outside of one.
    """

    def __init__(
        self,
        config: EngineConfig,
        model_dir: str | Path,
        log_dir: str | Path,
        *,
        seed: int = 0,
        transport: Transport | None = None,
        progress: Callable[[str], None] | None = None,
        board: Board | None = None,
    ):
        """`model_dir` is the HF folder that engines start from.

        `progress` hears of starts, deaths and recoveries, and `board` shows them as metrics.
        """
        self.config = config
        self.transport = transport or DiskTransport()
        self._report = progress or log.info
        self.board = board or Board()
        self.board.before_collect(self._show_engines)
        self._published: tuple[Path, PolicyVersion] | None = None
        self._changed = asyncio.Condition()  # engines' states
        self._swapping = asyncio.Lock()  # one swap, or one rejoin, at a time
        self.num_restarts = 0
        self._looking: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[Roster], None]] = []
        self._router: Router | None = None
        self.engines: list[Engine] = []
        if not config.urls:
            processes = [
                EngineProcess(config, model_dir, log_dir, index=i, seed=seed)
                for i in range(config.num_engines)
            ]
            self.engines = [
                Engine(EngineClient(process.url, config), process) for process in processes
            ]

    @property
    def ready(self) -> list[Engine]:
        """Engines that take requests now."""
        return [engine for engine in self.engines if engine.state == "ready"]

    @property
    def version(self) -> PolicyVersion:
        """The version that ready engines serve; 0 until something was published."""
        return self._published[1] if self._published else PolicyVersion(0)

    def start(self) -> None:
        """Start our engines side by side and wait for them; those given as URLs, see `find`.

        Raises:
            EngineStartError: one did not come up; the others are stopped.
        """
        processes = [engine.process for engine in self.engines if engine.process]
        try:
            for process in processes:
                process.launch(self._report)
            for process in processes:
                process.wait_ready(self._report)
        except BaseException:
            self.close()
            raise
        for engine in self.engines:
            assert engine.process is not None
            engine.client.url = engine.process.url

    async def find(self) -> None:
        """Wait until the engines given as URLs answer: all of them, or after `start_timeout_s` any.

        Whoever comes later joins then. Does nothing where we start the engines ourselves.

        Raises:
            EngineDiedError: none answered in time.
        """
        if not self.config.urls:
            return
        await self._look_up()
        self._looking = asyncio.create_task(self._keep_looking())
        end = time.monotonic() + self.config.start_timeout_s
        told = ""
        while not self.engines or len(self.ready) < len(self.engines):
            if time.monotonic() > end:
                if not self.ready:
                    raise EngineDiedError(self._nobody())
                break
            news = f"engines: {len(self.ready)} of {len(self.engines)} answer; waiting for the rest"
            if news != told:
                told = news
                self._report(news)
            await asyncio.sleep(_FIND_POLL_S)
        self._report(f"engines: {len(self.ready)} of {len(self.engines)} answer")

    def close(self) -> None:
        """Stop the engines that we started. Callable from any thread, more than once."""
        for engine in self.engines:
            if engine.process is not None:
                engine.process.close()

    async def __aenter__(self) -> EnginePool:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    async def disconnect(self) -> None:
        """End recoveries and close connections; call in the event loop, before `close`."""
        if self._looking is not None:
            self._looking.cancel()
        if self._router is not None:
            await self._router.close()
        for engine in self.engines:
            for task in (engine.watch, engine.recovery):
                if task is not None:
                    task.cancel()
            if engine.state == "out" and engine.process is not None:
                await asyncio.to_thread(engine.process.close)  # or its restart would go on
            await engine.client.close()

    async def generate(self, prompt_ids: Sequence[int], sampling: SamplingParams) -> Completion:
        """One response from any ready engine, by a router in this process (`Router.generate`)."""
        if self._router is None:
            self._router = Router(self.config, self.complain, self.note_load)
            self.listen(self._router.show)
        return await self._router.generate(prompt_ids, sampling)

    def listen(self, listener: Callable[[Roster], None]) -> None:
        """Tell `listener`, now and after each change, who serves what; in the event loop."""
        self._listeners.append(listener)
        listener(self.roster)

    @property
    def roster(self) -> Roster:
        """Who serves, and what."""
        return Roster(
            engines=tuple(engine.served for engine in self.ready),
            version=self.version.number,
            why="" if self.ready else self._nobody(),
            lost=not self.ready and self._settled(),
        )

    def complain(self, served: Served, why: str, reason: str) -> None:
        """A router found something wrong with an engine: it leaves the pool and is brought back.

        Args:
            reason: died, hung or stale.
        """
        for engine in self.engines:
            if engine.served == served:
                self._take_out(engine, why, reason)

    def note_load(self, served: Served, in_flight: int) -> None:
        """So many requests are on that engine; while there are any, its health is watched."""
        for engine in self.engines:
            if engine.served == served:
                engine.in_flight = in_flight
                if in_flight:
                    self._watch(engine)

    async def publish(self, weights_dir: str | Path, version: PolicyVersion) -> None:
        """Bring every engine to `version` (see `hot_swap.swap`).

        Returns when all ready engines serve it. An engine that dies meanwhile is restarted and
        tried again.

        Raises:
            SwapError: no engine took it. Engines whose old weights are intact go on serving them;
                the others recover to the last version that was published with success.
            EngineDiedError: every engine is lost.
        """
        while True:
            await self._wait_for_any()
            async with self._swapping:
                engines = self.ready
                failures = await self._swap(engines, Path(weights_dir), version)
                took_it = len(failures) < len(engines)
                if took_it:
                    self._published = (Path(weights_dir), version)
                    self._tell()
                for engine in engines:
                    failure = failures.get(engine.client)
                    if failure and (took_it or not failure.kept_old):
                        self._take_out(engine, str(failure.error), "swap")
            if took_it:
                return
            if engines and not any(failure.died for failure in failures.values()):
                raise next(iter(failures.values())).error

    async def _swap(
        self, engines: Sequence[Engine], weights_dir: Path, version: PolicyVersion
    ) -> dict[EngineClient, SwapFailure]:
        def observe(stage: str, seconds: float) -> None:
            self.board.observe("sdpo_swap_seconds", seconds, stage=stage)

        clients = [engine.client for engine in engines]
        failures = await swap(clients, weights_dir, version, self.transport, observe)
        for engine in engines:
            if engine.client in failures:
                self.board.add("sdpo_swap_failures_total", engine=engine.label)
            else:
                self.board.set("sdpo_engine_policy_version", version.number, engine=engine.label)
        return failures

    def _show_engines(self) -> None:
        """What moves too often to be told at each change; and that an engine's counters begin."""
        for engine in list(self.engines):
            for counter in ("engine_exits", "engine_rejoins", "swap_failures"):
                self.board.begin(f"sdpo_{counter}_total", engine=engine.label)
            self.board.set("sdpo_engine_up", float(engine.state == "ready"), engine=engine.label)
            self.board.set("sdpo_engine_requests_in_flight", engine.in_flight, engine=engine.label)

    def _watch(self, engine: Engine) -> None:
        """Check on the engine for as long as it has requests in flight."""
        if self.config.health_interval_s and (engine.watch is None or engine.watch.done()):
            engine.watch = asyncio.create_task(self._check_health(engine))

    async def _check_health(self, engine: Engine) -> None:
        """Take an engine out that is up but generates nothing (a scheduler that hangs, say).

        Its requests break when the recovery ends the process, or closes our connections to it.
        """
        failures = 0
        while engine.in_flight and engine.state == "ready" and failures < _HEALTH_FAILURES:
            await asyncio.sleep(self.config.health_interval_s)
            if (
                engine.in_flight and not self._swapping.locked()
            ):  # a paused engine generates nothing
                failures = 0 if await engine.client.healthy() else failures + 1
        if failures == _HEALTH_FAILURES:
            why = f"it is up but generates nothing ({failures} checks in a row)"
            self._take_out(engine, why, "hung")

    async def _wait_for_any(self) -> None:
        patience = self.config.start_timeout_s if self.config.urls else None
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(self._settled), patience)
        if not self.ready:
            raise EngineDiedError(self._nobody())

    def _settled(self) -> bool:
        """Whether one is ready, or none ever will be."""
        return bool(self.ready) or (
            not self.config.urls and all(engine.state == "lost" for engine in self.engines)
        )

    def _nobody(self) -> str:
        reasons = "\n".join(f"- {engine.name}: {engine.why}" for engine in self.engines)
        nobody = f"- {', '.join(self.config.urls)}: no address"
        waited = f" after {self.config.start_timeout_s:g} s" if self.config.urls else ""
        return f"no inference engine is left{waited}:\n{reasons or nobody}"

    def _take_out(self, engine: Engine, why: str, reason: str = "died") -> None:
        if engine.state != "ready":
            return  # another request noticed before
        self.board.add("sdpo_engine_exits_total", engine=engine.label, reason=reason)
        engine.state, engine.why = "out", why
        self._tell()
        self._report(f"engine {engine.name} leaves the pool: {why}")
        engine.recovery = asyncio.create_task(self._recover(engine))

    async def _recover(self, engine: Engine) -> None:
        """Bring it back at the current version, or declare it lost."""
        if engine.process is None:
            await self._wait_for(engine)
            return
        while engine.restarts < self.config.max_restarts:
            engine.restarts += 1
            self.num_restarts += 1
            try:
                await self._bring_up(engine)
                async with self._swapping:
                    await self._bring_to_current(engine)
                    await self._set_state(engine, "ready")
                self._welcome(engine, "is back")
                return
            except EngineError as error:
                engine.why = str(error)
                self._report(f"engine {engine.name}: recovery {engine.restarts} failed: {error}")
        engine.why += f"\n(given up after max_restarts = {self.config.max_restarts})"
        await self._set_state(engine, "lost")

    async def _bring_up(self, engine: Engine) -> None:
        assert engine.process is not None
        tail = (
            "" if engine.process.alive else f"; its last log lines:\n{engine.process.log_tail(8)}"
        )
        self._report(f"engine {engine.name}: restarting it{tail}")
        await asyncio.to_thread(engine.process.restart, self._report)
        await engine.client.close()
        engine.client.url = engine.process.url

    async def _wait_for(self, engine: Engine) -> None:
        """Take an engine that somebody else runs in, at the current version, once it answers."""
        await engine.client.close()  # breaks what hangs on it
        while True:
            try:
                await engine.client.model_info()
                await engine.client.resume()  # a swap that failed left it paused
                async with self._swapping:
                    await self._bring_to_current(engine)
                    engine.restarts += engine.joined
                    await self._set_state(engine, "ready")
                break
            except EngineError as error:
                engine.why = str(error)
            await asyncio.sleep(_URL_RETRY_S)
        self.num_restarts += engine.joined
        self._welcome(engine, "is back" if engine.joined else "joins")
        engine.joined = True

    def _welcome(self, engine: Engine, how: str) -> None:
        if how == "is back":
            self.board.add("sdpo_engine_rejoins_total", engine=engine.label)
        self._report(f"engine {engine.name} {how}, serving policy version {self.version.number}")

    async def _look_up(self) -> None:
        """Begin to wait for engines that are new, and forget those that are out and gone."""
        urls = [found for url in self.config.urls for found in await addresses_of(url)]
        for engine in [e for e in self.engines if e.name not in urls and e.state == "out"]:
            if engine.recovery is not None:
                engine.recovery.cancel()
            self.engines.remove(engine)
            for name in _OF_AN_ENGINE:
                self.board.remove(name, engine=engine.label)
            self._report(f"engine {engine.name} is gone for good: its name has no such address")
            await engine.client.close()
        for url in urls:
            if url not in [engine.name for engine in self.engines]:
                engine = Engine(EngineClient(url, self.config), None, "out", why="not asked yet")
                self.engines.append(engine)
                engine.recovery = asyncio.create_task(self._recover(engine))

    async def _keep_looking(self) -> None:
        while any(url.startswith(DNS_PREFIX) for url in self.config.urls):
            await asyncio.sleep(REFRESH_S)
            await self._look_up()

    async def _bring_to_current(self, engine: Engine) -> None:
        if self._published is None:
            return
        failures = await self._swap([engine], *self._published)
        for failure in failures.values():
            raise failure.error

    async def _set_state(self, engine: Engine, state: Literal["ready", "lost"]) -> None:
        async with self._changed:
            engine.state = state
            self._tell()
            self._changed.notify_all()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self.roster)
