"""How an engine that is out comes back: at the current version, or not at all.

Nothing here holds up a swap: each engine loads by itself, and looks before it joins whether what it
loaded is still current.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from sdpo_megatron.errors import EngineError, SwapError
from serving.client import MIXED, EngineRefusal
from serving.config import EngineConfig
from serving.engine import Engine
from serving.swapping import hot_swap
from serving.swapping.publication import Publication

URL_RETRY_S = 5.0


class Recovery:
    """Brings engines back, one call each, many side by side.

    Attributes:
        num_restarts: So far, those of engines that somebody else restarted included.
    """

    def __init__(
        self,
        config: EngineConfig,
        publication: Publication,
        report: Callable[[str], None],
        observe: hot_swap.Observe,
        num_restarts: int = 0,
    ) -> None:
        self._config, self._publication = config, publication
        self._report, self._observe = report, observe
        self.num_restarts = num_restarts

    async def bring_back(self, engine: Engine, *, alive: bool) -> None:
        """Until it is ready, or, of ours, lost. Raises nothing of an engine's.

        Args:
            alive: It answers: try to reload it before it is restarted.
        """
        if engine.process is None:
            await self._wait_for(engine)
            return
        try:
            if alive and await self._reloaded(engine):
                return
            while engine.restarts < self._config.max_restarts:
                engine.restarts += 1
                self.num_restarts += 1
                try:
                    await self._restart(engine)
                    await self._rejoin(engine)
                    return
                except SwapError:
                    raise
                except EngineError as error:
                    engine.why = str(error)
                    self._report(
                        f"engine {engine.name}: recovery {engine.restarts} failed: {error}"
                    )
            engine.why += f"\n(given up after max_restarts = {self._config.max_restarts})"
        except SwapError as error:  # fresh from disk it holds other weights: no restart mends that
            engine.why = str(error)
        engine.state = "lost"
        self._report(f"engine {engine.name} is lost: {engine.why}")
        await self._publication.notify()

    async def _reloaded(self, engine: Engine) -> bool:
        try:
            await engine.client.model_info()  # one that hangs would keep a load for minutes
            await self._rejoin(engine)
        except SwapError:
            raise
        except EngineError as error:
            engine.why = str(error)
            return False
        return True

    async def _restart(self, engine: Engine) -> None:
        assert engine.process is not None
        tail = (
            "" if engine.process.alive else f"; its last log lines:\n{engine.process.log_tail(8)}"
        )
        self._report(f"engine {engine.name}: restarting it{tail}")
        await asyncio.to_thread(engine.process.restart, self._report)
        await engine.client.close()
        engine.client.url, engine.client.released = engine.process.url, ()

    async def _wait_for(self, engine: Engine) -> None:
        """Take an engine that somebody else runs in, once it answers and took the weights."""
        await engine.client.close()  # breaks what hangs on it
        while True:
            try:
                await engine.client.model_info()
                await self._rejoin(engine)
                return
            except EngineError as error:
                engine.why = str(error)
            await asyncio.sleep(URL_RETRY_S)

    async def _rejoin(self, engine: Engine) -> None:
        """Load what is current, and join if it still is.

        Raises:
            SwapError: It holds other weights after loading them.
            EngineError: It failed.
        """
        while True:
            due = await self._publication.settled()
            if due is None:
                await self._as_it_is(engine)
            else:
                folder, version = due
                try:
                    await self._publication.written(folder, self._config.swap.deadline_s)
                    await hot_swap.reload(engine.client, folder, version, observe=self._observe)
                except EngineError:
                    if due == self._current():
                        raise
                    continue  # overtaken: the folder may have gone in the meantime
                engine.version = version.number
            if not self._publication.swapping and due == self._current():
                break
        if engine.process is None and engine.joined:
            engine.restarts += 1
            self.num_restarts += 1
        engine.state, engine.why = "ready", ""
        await self._publication.notify()

    def _current(self) -> object:
        folder = self._publication.folder
        return None if folder is None else (folder, self._publication.version)

    async def _as_it_is(self, engine: Engine) -> None:
        """Before anything was published: what a dead trainer's swap left half done stays paused
        until the first one.
        """
        with contextlib.suppress(EngineRefusal):
            await engine.client.end_update()
        if (await engine.client.model_info()).get("weight_version") != MIXED:
            await engine.client.resume()
