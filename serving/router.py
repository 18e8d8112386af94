"""Which engine takes a request: the one with the fewest in flight, of those that serve now.

A router sends requests and nothing else. Who serves is told to it (`show`) by the pool that holds
the engines, in this process or, for a rollout worker, in the trainer's; what it finds wrong with an
engine it tells the pool (`complain`), which brings the engine back. A request on an engine that
dies or leaves is sent again, to another one or once one is back: no caller sees it unless every
engine is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sdpo_megatron.errors import EngineDiedError
from serving.client import EngineClient
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig


@dataclass(frozen=True)
class Served:
    """An engine that serves.

    Attributes:
        life: Grows with each restart, so that a complaint about an earlier life does no harm.
    """

    url: str
    life: int


@dataclass(frozen=True, kw_only=True)
class Roster:
    """Who serves, and what.

    Attributes:
        engines: Those that take requests now.
        version: Policy version that they serve.
        why: Where none does: why not.
        lost: None ever will again.
    """

    engines: tuple[Served, ...] = ()
    version: int = 0
    why: str = ""
    lost: bool = False


Complain = Callable[[Served, str, str], None]


class Router:
    """Use it from one event loop.

    Attributes:
        config: Of the engines.
    """

    def __init__(
        self,
        config: EngineConfig,
        complain: Complain,
        on_load: Callable[[Served, int], None] = lambda engine, in_flight: None,
    ) -> None:
        """Prepare.

        Args:
            complain: Told of an engine that is not used any more, why in words, and in one: died
                or stale.
            on_load: Told how many requests an engine has, whenever that changes.
        """
        self.config = config
        self._complain, self._on_load = complain, on_load
        self._roster = Roster()
        self._clients: dict[Served, EngineClient] = {}
        self._load: dict[Served, int] = {}
        self._settled = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    def show(self, roster: Roster) -> None:
        """From now on these serve. Requests on an engine that is not among them are sent anew."""
        self._roster = roster
        for gone in self._clients.keys() - set(roster.engines):
            self._leave(gone)
        for engine in roster.engines:
            self._clients.setdefault(engine, EngineClient(engine.url, self.config))
        self._settle()

    async def generate(self, prompt_ids: Sequence[int], sampling: SamplingParams) -> Completion:
        """One response from any engine that serves; waits while there is none.

        Raises:
            EngineDiedError: Every engine is lost; of engines that somebody else runs, none has
                been there for `start_timeout_s`.
            EngineError: An engine refuses the request (for instance a prompt longer than its
                context).
        """
        while True:
            engine, client = await self._next()
            due = self._roster.version
            self._count(engine, 1)
            try:
                completion = await client.generate(prompt_ids, sampling)
            except EngineDiedError as error:
                self._fault(engine, str(error), "died")
                continue
            finally:
                self._count(engine, -1)
            served = min((span.version for span in completion.versions), default=due)
            if served >= due:
                return completion
            # It was restarted while nobody looked: it serves what it started with.
            self._fault(engine, f"it serves policy version {served} instead of {due}", "stale")

    async def close(self) -> None:
        """Close the connections."""
        for engine in list(self._clients):
            self._leave(engine)
        await asyncio.gather(*self._closing)

    async def _next(self) -> tuple[Served, EngineClient]:
        patience = self.config.start_timeout_s if self.config.urls else None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), patience)
        if not self._clients:
            raise EngineDiedError(self._roster.why)
        return min(self._clients.items(), key=lambda item: self._load.get(item[0], 0))

    def _count(self, engine: Served, change: int) -> None:
        now = self._load.get(engine, 0) + change
        self._load[engine] = now
        if not now:
            del self._load[engine]
        self._on_load(engine, now)

    def _fault(self, engine: Served, why: str, reason: str) -> None:
        if engine in self._clients:  # else another request has noticed, or it left meanwhile
            self._leave(engine)
            self._settle()
            self._complain(engine, why, reason)

    def _leave(self, engine: Served) -> None:
        task = asyncio.ensure_future(self._clients.pop(engine).close())  # breaks what hangs on it
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _settle(self) -> None:
        """Whether there is one, or never will be."""
        if self._clients or self._roster.lost:
            self._settled.set()
        else:
            self._settled.clear()


def engines_of(pairs: Iterable[Sequence[object]]) -> tuple[Served, ...]:
    """The inverse of ``[engine.url, engine.life]``, as a message has them."""
    return tuple(Served(str(url), int(str(life))) for url, life in pairs)
