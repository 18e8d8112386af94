"""Which engine takes a request: that of its group, else the one with the fewest in flight.

Attempts of one group share their prompt, so the second finds it in the first one's cache. They stay
on one engine until it has `AFFINITY_SLACK` requests more than the idlest; then the group moves on.
Behind a gateway (`EngineConfig.gateway`) that choice is the gateway's.

A router sends requests and nothing else. Who serves is told to it (`show`) by the pool that holds
the engines, in this process or, for a rollout worker, in the trainer's; what it finds wrong with an
engine it tells the pool (`complain`), which brings the engine back. A request on an engine that
dies or leaves is sent again, to another one or once one is back: no caller sees it unless every
engine is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sdpo_megatron.errors import EngineDiedError, EngineError
from serving.client import EngineClient, EngineRefusal
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig

AFFINITY_SLACK = 8
_GROUPS_REMEMBERED = 4096
_GATEWAY_RETRY_S = 1.0


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
        holding: New requests wait: a swap lets those end that run.
    """

    engines: tuple[Served, ...] = ()
    version: int = 0
    why: str = ""
    lost: bool = False
    holding: bool = False


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
        self._homes: OrderedDict[int, Served] = OrderedDict()  # by hash of the prompt
        self._gateway = EngineClient(config.gateway, config) if config.gateway else None
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
        if self._gateway is not None:
            return await self._through(self._gateway, prompt_ids, sampling)
        while True:
            engine, client = await self._next(hash(tuple(prompt_ids)))
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

    async def _through(
        self, gateway: EngineClient, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> Completion:
        """By the gateway, which sends a request of an engine that dies to another one. While the
        gateway itself is away, or has no engine, ask again.
        """
        patience = self.config.start_timeout_s
        end = time.monotonic() + patience
        while True:
            await self._wait()
            due = self._roster.version
            try:
                completion = await gateway.generate(prompt_ids, sampling)
            except (EngineDiedError, EngineRefusal) as error:
                if isinstance(error, EngineRefusal) and error.status < 500:
                    raise
                if time.monotonic() > end:
                    raise EngineDiedError(
                        f"the gateway has had no answer for {patience:g} s: {error}"
                    ) from error
                await asyncio.sleep(_GATEWAY_RETRY_S)
                continue
            served = min((span.version for span in completion.versions), default=due)
            if served >= due:
                return completion
            await self._find_stale(due)

    async def _find_stale(self, due: int) -> None:
        """A gateway does not say which engine answered: ask them all."""
        for engine, client in list(self._clients.items()):
            with contextlib.suppress(EngineError):
                if (found := await client.version()) < due:
                    self._fault(
                        engine, f"it serves policy version {found} instead of {due}", "stale"
                    )

    async def close(self) -> None:
        """Close the connections."""
        if self._gateway is not None:
            await self._gateway.close()
        for engine in list(self._clients):
            self._leave(engine)
        await asyncio.gather(*self._closing)

    async def _next(self, group: int) -> tuple[Served, EngineClient]:
        await self._wait()
        idlest = min(self._clients, key=self._load_of)
        home = self._homes.pop(group, idlest)
        if home not in self._clients or (
            self._load_of(home) - self._load_of(idlest) >= AFFINITY_SLACK
        ):
            home = idlest
        self._homes[group] = home
        if len(self._homes) > _GROUPS_REMEMBERED:
            self._homes.popitem(last=False)
        return home, self._clients[home]

    def _load_of(self, engine: Served) -> int:
        return self._load.get(engine, 0)

    async def _wait(self) -> None:
        patience = self.config.start_timeout_s if self.config.urls else None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), patience)
        if not self._clients:
            raise EngineDiedError(self._roster.why)

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
        """Whether there is one to send to, or never will be."""
        if (self._clients and not self._roster.holding) or self._roster.lost:
            self._settled.set()
        else:
            self._settled.clear()


def engines_of(pairs: Iterable[Sequence[object]]) -> tuple[Served, ...]:
    """The inverse of ``[engine.url, engine.life]``, as a message has them."""
    return tuple(Served(str(url), int(str(life))) for url, life in pairs)
