"""The engines of a run: which serve, which are out, and how one comes back.

    ready ──dies or fails a swap──► out ──restarted, current version loaded and verified──► ready
                                     └──more than max_restarts, or it does not come up──► lost

Requests go to the ready engine with the fewest in flight. A request on an engine that dies is sent
again, to another engine or to the same one once it is back: no caller sees the death unless every
engine is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sdpo_megatron.errors import EngineDiedError, EngineError
from sdpo_megatron.nouns import PolicyVersion
from serving.client import EngineClient
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig
from serving.hot_swap import DiskTransport, Transport, swap
from serving.launch import EngineProcess

log = logging.getLogger(__name__)

_URL_RETRY_S = 5.0
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
    recovery: asyncio.Task[None] | None = field(default=None, repr=False)
    watch: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.client.url


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
    ):
        """`model_dir` is the HF folder that engines start from.

        `progress` hears of starts, deaths and recoveries.
        """
        self.config = config
        self.transport = transport or DiskTransport()
        self._report = progress or log.info
        self._published: tuple[Path, PolicyVersion] | None = None
        self._changed = asyncio.Condition()  # engines' states
        self._swapping = asyncio.Lock()  # one swap, or one rejoin, at a time
        self.num_restarts = 0
        if config.urls:
            self.engines = [Engine(EngineClient(url, config), None) for url in config.urls]
        else:
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
        """Start all engines side by side and wait for them; or check that the given URLs answer.

        Raises:
            EngineStartError: one did not come up; the others are stopped.
            EngineDiedError: nothing answers at a given URL.
        """
        if self.config.urls:
            asyncio.run(self._check_urls())
            return
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
        for engine in self.engines:
            for task in (engine.watch, engine.recovery):
                if task is not None:
                    task.cancel()
            if engine.state == "out" and engine.process is not None:
                await asyncio.to_thread(engine.process.close)  # or its restart would go on
            await engine.client.close()

    async def generate(self, prompt_ids: Sequence[int], sampling: SamplingParams) -> Completion:
        """One response from any ready engine; waits while engines recover.

        Raises:
            EngineDiedError: every engine is lost.
            EngineError: an engine refuses the request (for instance a prompt longer than its
                context).
        """
        while True:
            engine = await self._next_ready()
            engine.in_flight += 1
            self._watch(engine)
            try:
                return await engine.client.generate(prompt_ids, sampling)
            except EngineDiedError as error:
                self._take_out(engine, str(error))
            finally:
                engine.in_flight -= 1

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
                failures = await swap(
                    [engine.client for engine in engines], weights_dir, version, self.transport
                )
                took_it = len(failures) < len(engines)
                if took_it:
                    self._published = (Path(weights_dir), version)
                for engine in engines:
                    failure = failures.get(engine.client)
                    if failure and (took_it or not failure.kept_old):
                        self._take_out(engine, str(failure.error))
            if took_it:
                return
            if engines and not any(failure.died for failure in failures.values()):
                raise next(iter(failures.values())).error

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
            self._take_out(engine, f"it is up but generates nothing ({failures} checks in a row)")

    async def _next_ready(self) -> Engine:
        await self._wait_for_any()
        return min(self.ready, key=lambda engine: engine.in_flight)

    async def _wait_for_any(self) -> None:
        async with self._changed:
            await self._changed.wait_for(
                lambda: self.ready or all(e.state == "lost" for e in self.engines)
            )
        if not self.ready:
            reasons = "\n".join(f"- {engine.name}: {engine.why}" for engine in self.engines)
            raise EngineDiedError(f"no inference engine is left:\n{reasons}")

    def _take_out(self, engine: Engine, why: str) -> None:
        if engine.state != "ready":
            return  # another request noticed before
        engine.state, engine.why = "out", why
        self._report(f"engine {engine.name} leaves the pool: {why}")
        engine.recovery = asyncio.create_task(self._recover(engine))

    async def _recover(self, engine: Engine) -> None:
        """Bring it back at the current version, or declare it lost."""
        while engine.restarts < self.config.max_restarts:
            engine.restarts += 1
            self.num_restarts += 1
            try:
                await self._bring_up(engine)
                async with self._swapping:
                    await self._bring_to_current(engine)
                    await self._set_state(engine, "ready")
                self._report(
                    f"engine {engine.name} is back, serving policy version {self.version.number}"
                )
                return
            except EngineError as error:
                engine.why = str(error)
                self._report(f"engine {engine.name}: recovery {engine.restarts} failed: {error}")
        engine.why += f"\n(given up after max_restarts = {self.config.max_restarts})"
        await self._set_state(engine, "lost")

    async def _bring_up(self, engine: Engine) -> None:
        if engine.process is not None:
            tail = (
                ""
                if engine.process.alive
                else f"; its last log lines:\n{engine.process.log_tail(8)}"
            )
            self._report(f"engine {engine.name}: restarting it{tail}")
            await asyncio.to_thread(engine.process.restart, self._report)
            await engine.client.close()
            engine.client.url = engine.process.url
            return
        await engine.client.close()  # breaks what hangs on it
        await asyncio.sleep(_URL_RETRY_S)  # somebody else restarts it
        await engine.client.model_info()
        await engine.client.resume()  # a swap that failed left it paused

    async def _bring_to_current(self, engine: Engine) -> None:
        if self._published is None:
            return
        failures = await swap([engine.client], *self._published, self.transport)
        for failure in failures.values():
            raise failure.error

    async def _set_state(self, engine: Engine, state: Literal["ready", "lost"]) -> None:
        async with self._changed:
            engine.state = state
            self._changed.notify_all()

    async def _check_urls(self) -> None:
        try:
            for engine in self.engines:
                await engine.client.model_info()
        finally:
            await self.disconnect()
