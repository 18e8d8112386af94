"""The engines of a run: which serve (`engine.Engine`), and swaps over all of them.

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from sdpo_megatron.addresses import DNS_PREFIX, REFRESH_S, addresses_of
from sdpo_megatron.errors import EngineDiedError, EngineError, SwapError
from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.observability.board import Board
from serving import memory
from serving.client import EngineClient
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig
from serving.engine import STATES, Engine
from serving.launch import EngineProcess
from serving.recovery import Recovery
from serving.router import Roster, Router, Served
from serving.swapping import hot_swap
from serving.swapping.publication import Publication
from serving.swapping.settle import settle
from serving.swapping.swap_target import SwapFailure, SwapTarget
from serving.transports.transport import Patience
from serving.weight_files import check_weight_files

log = logging.getLogger(__name__)

_FIND_POLL_S = 0.1
_DRAIN_POLL_S = 0.05
_OF_AN_ENGINE = (
    "sdpo_engine_up", "sdpo_engine_requests_in_flight", "sdpo_engine_policy_version",
)  # fmt: skip
_HEALTH_FAILURES = 3


class EnginePool:
    """A context manager of one event loop: engines run, or are found, inside the block."""

    def __init__(
        self,
        config: EngineConfig,
        model_dir: str | Path,
        log_dir: str | Path,
        *,
        seed: int = 0,
        progress: Callable[[str], None] | None = None,
        board: Board | None = None,
    ):
        """`model_dir` is the HF folder that engines start from.

        `progress` hears of starts, deaths and recoveries, and `board` shows them as metrics.
        """
        self.config = config
        self._report = progress or log.info
        self.board = board or Board()
        self.board.before_collect(self._show_engines)
        self._publication = Publication()
        self._recovery = Recovery(config, self._publication, self._report, self._observe)
        self._looking: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[Roster], None]] = []
        self._router: Router | None = None
        self._holding = False
        self._in_swap: list[Engine] = []
        self._patience = Patience(1, 0.0, 0.0)
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
        return [engine for engine in self.engines if engine.serves]

    @property
    def version(self) -> PolicyVersion:
        """The version that ready engines serve; 0 until something was published."""
        return self._publication.version

    @property
    def num_restarts(self) -> int:
        """Of engines, so far."""
        return self._recovery.num_restarts

    # --- the life of the pool ----------------------------------------------------------------

    async def __aenter__(self) -> EnginePool:
        """Start our engines side by side; or wait until those given as URLs answer: all of them, or
        after `start_timeout_s` any. Whoever comes later joins then.

        Raises:
            EngineStartError: One of ours did not come up; the others are stopped.
            EngineDiedError: None of the URLs answered in time.
        """
        try:
            if self.config.urls:
                await self._find()
            else:
                await asyncio.to_thread(self._start)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End recoveries, close connections, and stop the engines that we started."""
        for task in (self._looking, *(engine.recovery for engine in self.engines)):
            if task is not None:
                task.cancel()
        if self._router is not None:
            await self._router.close()
        for engine in self.engines:
            if engine.watch is not None:
                engine.watch.cancel()
            await engine.client.close()
        await asyncio.gather(
            *(asyncio.to_thread(e.process.close) for e in self.engines if e.process is not None)
        )

    def _start(self) -> None:
        processes = [engine.process for engine in self.engines if engine.process]
        for process in processes:
            if not process.alive:
                process.launch(self._report)
        for process in processes:
            process.wait_ready(self._report)
        for engine in self.engines:
            assert engine.process is not None
            engine.client.url = engine.process.url
        self._tell()

    async def restart(self, config: EngineConfig) -> None:
        """Stop all our engines and start them as `config` says. They have no version then: publish
        one.

        Raises:
            EngineStartError: One did not come up; the others are stopped.
        """
        assert not config.urls, "engines of somebody else cannot be restarted"
        self.config = config
        for engine in self.engines:
            assert engine.process is not None
            if engine.recovery is not None:
                engine.recovery.cancel()
            engine.state, engine.why = "out", "it is restarted under another configuration"
            engine.life += 1
            engine.process.config = engine.client.config = config
            await asyncio.to_thread(engine.process.stop)
            await engine.client.close()
            engine.client.released = ()
        self._publication.folder, self._publication.version = None, PolicyVersion(0)
        self._recovery = Recovery(
            config, self._publication, self._report, self._observe, self.num_restarts
        )
        self._tell()
        await asyncio.to_thread(self._start)
        for engine in self.engines:
            engine.state, engine.why = "ready", ""
        self._tell()
        await self._publication.notify()

    async def release_memory(self) -> None:
        """Ready engines give their GPU memory back; it returns with the next swap. One that does
        not is restarted."""
        for engine in self.ready:
            try:
                await memory.release(engine.client)
            except EngineError as error:
                self._take_out(engine, str(error))

    async def _find(self) -> None:
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

    # --- requests ----------------------------------------------------------------------------

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
            holding=self._holding,
        )

    def complain(self, served: Served, why: str, reason: str) -> None:
        """A router found something wrong with an engine: it leaves the pool and is brought back.

        Args:
            reason: died, hung or stale.
        """
        for engine in self.engines:
            if engine.served == served:
                self._take_out(engine, why, reason)

    async def answers(self, served: Served) -> bool:
        """Whether that engine, which should serve, generates when it is asked from here."""
        return any([await e.client.healthy() for e in self.engines if e.served == served])

    def note_load(self, served: Served, in_flight: int) -> None:
        """So many requests are on that engine; while there are any, its health is watched."""
        for engine in self.engines:
            if engine.served == served:
                engine.in_flight = in_flight
                if in_flight:
                    self._watch(engine)

    # --- swaps -------------------------------------------------------------------------------

    async def begin(self, number: int, *, stream: bool = True) -> SwapTarget:
        """Pause every ready engine for a swap to version `number`; `finish` must follow.

        Args:
            stream: Buckets will come; else the weights are in a folder.

        Raises:
            EngineDiedError: Every engine is lost.
        """
        swap = self.config.swap
        started = time.monotonic()
        await self._wait_for_any()
        self._publication.swapping = True
        if swap.in_flight == "wait":
            await self._drain(started + swap.deadline_s / 2)
        self._in_swap = self.ready
        for engine in self._in_swap:
            engine.state, engine.paused_at = "updating", time.monotonic()
        left = started + swap.deadline_s - time.monotonic()
        self._patience = Patience.of(self.config, len(self._in_swap), left)
        mode: Literal["abort", "retract"] = "abort" if swap.in_flight == "abort" else "retract"
        _, failures = await settle(
            {
                engine: hot_swap.begin(
                    engine.client, mode=mode, stream=stream, observe=self._observe
                )
                for engine in self._in_swap
            },
            self._patience,
            "paused",
        )
        self._fail(failures)
        self._in_swap = [engine for engine in self._in_swap if engine.state == "updating"]
        return SwapTarget(
            number=number,
            engines=tuple(engine.served for engine in self._in_swap),
            seconds_left=max(0.0, self._patience.deadline - time.monotonic()),
        )

    async def finish(
        self,
        version: PolicyVersion,
        folder: str | Path,
        *,
        stream: bool = True,
        failures: Mapping[str, SwapFailure] | None = None,
    ) -> None:
        """The other half of `begin`: engines that took the weights serve them as `version`.

        Returns when a quorum of those that began does, if need be after they were reloaded from
        `folder`, which may still be written (after a stream) or must be there.

        Args:
            failures: Of those that did not get every bucket, by URL.

        Raises:
            SwapError: There was no quorum before the deadline, or the folder is torn.
            EngineDiedError: Every engine is lost.
        """
        folder = Path(folder)
        try:
            self._fail(
                {
                    engine: _as_error(failures[engine.name])
                    for engine in self._in_swap
                    if failures and engine.name in failures
                }
            )
            by_client = {e.client: e for e in self._in_swap if e.state == "updating"}
            failed = await hot_swap.complete(
                list(by_client),
                version,
                self._patience,
                folder=None if stream else folder,
                observe=self._observe,
            )
            self._publication.folder, self._publication.version = folder, version
            self._fail({by_client[client]: error for client, error in failed.items()})
            for engine in by_client.values():
                if engine.state == "updating":
                    engine.state, engine.version = "ready", version.number
                    self._observe_pause(engine)
        finally:
            self._in_swap = []
            self._publication.swapping = self._holding = False
            await self._publication.notify()
        self._tell()
        await self._quorum_serves(self._patience.quorum)

    async def publish(self, folder: str | Path, version: PolicyVersion) -> None:
        """Bring every engine to the weights in `folder`: `begin` and `finish` at once."""
        check_weight_files(Path(folder), version.number)
        await self.begin(version.number, stream=False)
        await self.finish(version, folder, stream=False)

    async def _drain(self, deadline: float) -> None:
        """Hold requests back until those in flight have ended, at most until `deadline`."""
        self._holding = True
        self._tell()
        while any(engine.in_flight for engine in self.ready) and time.monotonic() < deadline:
            await asyncio.sleep(_DRAIN_POLL_S)

    def _fail(self, failures: Mapping[Engine, EngineError]) -> None:
        for engine, error in failures.items():
            self.board.add("sdpo_swap_failures_total", engine=engine.label)
            died = isinstance(error, EngineDiedError)
            self._take_out(engine, str(error), "died" if died else "swap")

    async def _quorum_serves(self, quorum: int) -> None:
        """Until that many engines serve what was published."""
        current = self.version

        def settled() -> bool:
            recovering = [engine for engine in self.engines if engine.state == "out"]
            return len(self.ready) >= quorum or not recovering

        async with self._publication.changed:
            with contextlib.suppress(TimeoutError):
                left = max(0.0, self._patience.deadline - time.monotonic())
                await asyncio.wait_for(self._publication.changed.wait_for(settled), left)
        if len(self.ready) >= quorum:
            return
        reasons = "\n".join(f"- {e.name}: {e.why}" for e in self.engines if not e.serves)
        if not self.ready and self._settled():
            raise EngineDiedError(self._nobody())
        raise SwapError(
            f"policy version {current.number}: {len(self.ready)} engines serve it within "
            f"rollout.engine.swap.deadline_s={self.config.swap.deadline_s:g}, "
            f"rollout.engine.swap.quorum={self.config.swap.quorum:g} asks for {quorum}:\n{reasons}"
        )

    # --- engines come and go -----------------------------------------------------------------

    def _take_out(self, engine: Engine, why: str, reason: str = "died") -> None:
        if not engine.serves:
            return  # another request noticed before
        self.board.add("sdpo_engine_exits_total", engine=engine.label, reason=reason)
        engine.state, engine.why = "out", why
        engine.life += 1
        self._tell()
        self._report(f"engine {engine.name} leaves the pool: {why}")
        engine.recovery = asyncio.create_task(self._recover(engine, reason in ("swap", "stale")))

    async def _recover(self, engine: Engine, alive: bool) -> None:
        await self._recovery.bring_back(engine, alive=alive)
        self._tell()
        if engine.state != "ready":
            return
        how = "is back" if engine.process or engine.joined else "joins"
        engine.joined = True
        if how == "is back":
            self.board.add("sdpo_engine_rejoins_total", engine=engine.label)
        self._report(f"engine {engine.name} {how}, serving policy version {self.version.number}")

    async def _wait_for_any(self) -> None:
        patience = self.config.start_timeout_s if self.config.urls else None
        async with self._publication.changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._publication.changed.wait_for(lambda: bool(self.ready) or self._settled()),
                    patience,
                )
        if not self.ready:
            raise EngineDiedError(self._nobody())

    def _settled(self) -> bool:
        """Whether none will ever be ready again."""
        return not self.config.urls and all(engine.state == "lost" for engine in self.engines)

    def _nobody(self) -> str:
        reasons = "\n".join(f"- {engine.name}: {engine.why}" for engine in self.engines)
        nobody = f"- {', '.join(self.config.urls)}: no address"
        waited = f" after {self.config.start_timeout_s:g} s" if self.config.urls else ""
        return f"no inference engine is left{waited}:\n{reasons or nobody}"

    async def _look_up(self) -> None:
        """Begin to wait for engines that are new, and forget those that are out and gone."""
        urls = [found for url in self.config.urls for found in await addresses_of(url)]
        for engine in [e for e in self.engines if e.name not in urls and e.state == "out"]:
            if engine.recovery is not None:
                engine.recovery.cancel()
            self.engines.remove(engine)
            for name in _OF_AN_ENGINE:
                self.board.remove(name, engine=engine.label)
            for state in STATES:
                self.board.remove("sdpo_engine_state", engine=engine.label, state=state)
            self._report(f"engine {engine.name} is gone for good: its name has no such address")
            await engine.client.close()
        for url in urls:
            if url not in [engine.name for engine in self.engines]:
                engine = Engine(EngineClient(url, self.config), None, "out", why="not asked yet")
                self.engines.append(engine)
                engine.recovery = asyncio.create_task(self._recover(engine, alive=True))

    async def _keep_looking(self) -> None:
        while any(url.startswith(DNS_PREFIX) for url in self.config.urls):
            await asyncio.sleep(REFRESH_S)
            await self._look_up()

    def _watch(self, engine: Engine) -> None:
        """Check on the engine for as long as it has requests in flight."""
        if self.config.health_interval_s and (engine.watch is None or engine.watch.done()):
            engine.watch = asyncio.create_task(self._check_health(engine))

    async def _check_health(self, engine: Engine) -> None:
        """Take an engine out that is up but generates nothing (a scheduler that hangs, say).

        Its requests break when the recovery ends the process, or closes our connections to it.
        """
        failures = 0
        while engine.in_flight and engine.serves and failures < _HEALTH_FAILURES:
            await asyncio.sleep(self.config.health_interval_s)
            if engine.in_flight and engine.state == "ready":  # paused, it generates nothing
                failures = 0 if await engine.client.healthy() else failures + 1
        if failures == _HEALTH_FAILURES:
            why = f"it is up but generates nothing ({failures} checks in a row)"
            self._take_out(engine, why, "hung")

    # --- who is told -------------------------------------------------------------------------

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self.roster)

    def _observe(self, stage: str, seconds: float) -> None:
        self.board.observe("sdpo_swap_seconds", seconds, stage=stage)

    def _observe_pause(self, engine: Engine) -> None:
        self.board.observe("sdpo_swap_pause_seconds", time.monotonic() - engine.paused_at)
        self.board.set("sdpo_engine_policy_version", engine.version, engine=engine.label)

    def _show_engines(self) -> None:
        """What moves too often to be told at each change; and that an engine's counters begin."""
        for engine in list(self.engines):
            for counter in ("engine_exits", "engine_rejoins", "swap_failures"):
                self.board.begin(f"sdpo_{counter}_total", engine=engine.label)
            self.board.set("sdpo_engine_up", float(engine.serves), engine=engine.label)
            self.board.set("sdpo_engine_requests_in_flight", engine.in_flight, engine=engine.label)
            for state in STATES:
                is_it = float(engine.state == state)
                self.board.set("sdpo_engine_state", is_it, engine=engine.label, state=state)


def _as_error(failure: SwapFailure) -> EngineError:
    return EngineDiedError(failure.why) if failure.died else EngineError(failure.why)
