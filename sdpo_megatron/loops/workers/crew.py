"""The controller's side of the rollout workers: leases out, receipts in, rollout batches cut.

Everything here runs in the event loop of rank 0's rollout side. What goes wrong in a worker, or
with the ledger, is raised where a batch or sums are waited for.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdpo_megatron import errors
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.loops.workers.channel import Channel, Message
from sdpo_megatron.loops.workers.collects import Collects
from sdpo_megatron.loops.workers.door import DoorKeeper
from sdpo_megatron.loops.workers.members import Guest, Member, Own
from sdpo_megatron.nouns import GroupLease, GroupReceipt, PolicyVersion, Question
from sdpo_megatron.nouns import Message as ChatMessage
from sdpo_megatron.observability.board import Board
from sdpo_megatron.rollout.capacity import num_engines, requests_in_flight
from sdpo_megatron.rollout.config import SamplingConfig
from sdpo_megatron.rollout.desk import Desk
from sdpo_megatron.rollout.group_file import receipt_from_plain
from sdpo_megatron.rollout.summary import Sums
from serving.pool import EnginePool
from serving.router import Roster, Served, engines_of

_EXPIRY_POLL_S = 1.0
_SPARE_GROUPS = 2  # beyond those that fill its requests: a worker never waits for a lease

OnAttempt = Callable[[Message], None]
QuestionAt = Callable[[int], str]


class Crew:
    """The rollout workers of a run. `open` and `close` it; other calls in between."""

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        pool: EnginePool,
        progress: Callable[[str], None],
        board: Board,
    ) -> None:
        """Prepare; `begin` says what the workers are to make."""
        self._config, self._run, self._pool = config, run, pool
        self._progress, self._board = progress, board
        self._eta = config.rollout.max_staleness
        per_group = config.rollout.sampling.num_attempts
        engine = config.rollout.engine
        in_flight = requests_in_flight(config.rollout.sampling, engine, num_engines(engine))
        self._capacity = math.ceil(in_flight / per_group) + _SPARE_GROUPS
        self._desk: Desk | None = None
        self._question_at: QuestionAt = str
        self._tell_attempt: OnAttempt = lambda _: None
        self._turns: Callable[[], Sequence[ChatMessage]] = tuple
        self._version = 0
        self._own: list[Own] = []
        self._guests: dict[str, Guest] = {}
        self._ready_at = time.monotonic()  # when a worker was last seen to take leases
        self._guests_failed = 0  # in a row, without a group in between
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: dict[Own, asyncio.Task[None]] = {}
        self._door: DoorKeeper | None = None
        self._up = False  # the engines
        self._closing = False
        self._server: asyncio.Server | None = None
        self._sockets: tempfile.TemporaryDirectory[str] | None = None
        self._news = asyncio.Event()
        self._failure: Exception | None = None
        self._collects = Collects()
        self._judged: Counter[int] = Counter()  # attempts, of groups that no batch has taken yet
        self._loads: dict[Served, Counter[Member]] = defaultdict(Counter)

    async def open(self) -> None:
        """Start the workers, and let those of others in; they come up while engines do.

        Raises:
            ConfigError: Nothing can listen where those of others are to be let in.
        """
        config = self._config.rollout.workers
        self._sockets = tempfile.TemporaryDirectory(prefix="sdpo-workers-")  # for this user only
        socket = f"{self._sockets.name}/socket"
        self._server = await asyncio.start_unix_server(self._hear, socket)
        if config.listen_address:
            await self._open_door()
        self._own = [
            Own(f"worker-{index}", config, self._run, socket) for index in range(config.count)
        ]
        for member in self._own:
            self._board.begin("sdpo_worker_exits_total", worker=member.name)
            self._kept[member] = self._task(member.keep(self._on_death))
        self._ready_at = time.monotonic()
        self._task(self._watch_deadlines())

    def engines_are_up(self) -> None:
        """From now on workers are told who serves."""
        self._up = True
        self._pool.listen(self._tell_roster)

    async def wait_ready(self) -> None:
        """Return when a worker takes leases.

        Raises:
            SdpoError: What keeps it from it: no sandbox, say.
        """
        while not self._ready:
            await self._next_news()

    async def close(self) -> None:
        """End our workers and wait for them; those of others wait for the next controller."""
        self._closing = True
        await asyncio.gather(*(member.close(kept) for member, kept in self._kept.items()))
        if self._server is not None:
            self._server.close()
        if self._door is not None:
            self._door.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._sockets is not None:
            self._sockets.cleanup()

    def begin(
        self,
        desk: Desk,
        question_at: QuestionAt,
        on_attempt: OnAttempt,
        turns: Callable[[], Sequence[ChatMessage]] = tuple,
    ) -> None:
        """From now on workers make the groups of `desk`.

        Args:
            question_at: Id of the question at a position in the order of the run.
            on_attempt: Hears of each attempt that was judged.
            turns: What follows the question's own messages in the next group.
        """
        self._turns = turns
        self._desk, self._question_at, self._tell_attempt = desk, question_at, on_attempt
        self._give_leases()

    def published(self, trained_batches: int) -> None:
        """Engines have the weights after so many rollout batches: generation may go on ahead."""
        assert self._desk is not None
        if self._eta:
            self._desk.admit(trained_batches)
            self._give_leases()

    async def next_batch(self, step: int, version: int) -> list[GroupReceipt]:
        """The groups of rollout batch `step` (from 1), to be trained on by `version` next.

        Raises:
            SdpoError: A worker could not make one, or died too often.
        """
        assert self._desk is not None
        self._version = version
        self._desk.admit(step - 1)
        while True:
            self._give_leases()
            receipts = self._desk.cut(step, version)
            if receipts is not None:
                book = self._desk.ledger.book
                live = {*book.positions("leased"), *book.positions("committed")}
                self._judged = Counter({p: n for p, n in self._judged.items() if p in live})
                return receipts
            await self._next_news()

    async def collect(
        self,
        questions: Sequence[Question],
        version: PolicyVersion,
        seed: int,
        sampling: SamplingConfig,
        on_attempt: Callable[[], None],
    ) -> list[Sums]:
        """Sample and judge a group for each question; their sums, in order. Nothing is kept.

        Raises:
            SdpoError: As `next_batch`.
        """
        asked = self._collects.add(questions, version, seed, sampling, on_attempt)
        try:
            self._collects.ask(list(self._ready.values()), asked)
            while not all(collect.found.done() for collect in asked.values()):
                await self._next_news()
            return [collect.found.result() for collect in asked.values()]
        finally:
            self._collects.forget(asked)
            self._to_all("abandon", numbers=list(asked))

    @property
    def attempts_done(self) -> int:
        """Judged attempts of groups that a batch may still take."""
        return sum(self._judged.values())

    @property
    def attempts_in_flight(self) -> int:
        """Attempts of leased groups that are not judged."""
        if self._desk is None:
            return 0
        held = self._desk.ledger.book.positions("leased")
        per_group = self._config.rollout.sampling.num_attempts
        return sum(max(0, per_group - self._judged[position]) for position in held)

    @property
    def members(self) -> list[tuple[str, bool]]:
        """The name of each worker that should be there, and whether it takes leases."""
        return [(member.name, member.ready) for member in self._members]

    @property
    def restarts(self) -> int:
        """Of our workers, so far."""
        return sum(member.restarts for member in self._own)

    @property
    def _members(self) -> list[Member]:
        return [*self._own, *self._guests.values()]

    @property
    def _ready(self) -> dict[Member, Channel]:
        return {m: m.channel for m in self._members if m.ready and m.channel is not None}

    def _give_leases(self) -> None:
        desk, ready = self._desk, self._ready
        if desk is None or not ready:
            return
        held = {member: desk.held_by(member.name) for member in ready}
        for member, more in _shares(held, desk.room, self._capacity).items():
            if leases := desk.lease(member.name, more):
                groups = [self._asked(lease) for lease in leases]
                ready[member].send("lease", groups=groups)

    def _asked(self, lease: GroupLease) -> Message:
        return {
            "position": lease.position,
            "number": lease.number,
            "question": self._question_at(lease.position),
            "turns": list(self._turns()),
            "version": None if self._eta else self._version,
            "seed": lease.position // self._config.batch.questions,
        }

    def _to_all(self, kind: str, **fields: Any) -> None:
        for member in self._members:
            if member.channel is not None:
                member.channel.send(kind, **fields)

    def _tell_roster(self, roster: Roster) -> None:
        self._to_all("roster", **_roster(roster))

    async def _open_door(self) -> None:
        config = self._config.rollout.workers
        keeper = DoorKeeper(
            self._run / "rollouts", lambda channel: self._task(self._host(channel)), self._progress
        )
        try:
            await keeper.open(config.listen_address, config.listen_port)
        except OSError as error:
            raise errors.ConfigError(
                f"rollout.workers.listen_address={config.listen_address}, "
                f"rollout.workers.listen_port={config.listen_port}: {error.strerror}"
            ) from error
        self._door = keeper

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection over the local socket, from hello to its end."""
        self._task(self._employ(Channel(reader, writer)))

    async def _employ(self, channel: Channel) -> None:
        """One of ours."""
        try:
            hello = await channel.receive()
            if hello is not None:
                member = next(m for m in self._own if m.name == hello["name"])
                member.channel = channel
                await self._talk(member, channel)
        finally:
            await channel.close()

    async def _host(self, channel: Channel) -> None:
        """One of somebody else's."""
        guest: Guest | None = None
        try:
            hello = await channel.receive()
            if hello is None:
                return
            name = str(hello["name"])
            if any(name == member.name for member in self._members):
                channel.send("refused", why=f"a worker named {name} is here")
                return
            guest = self._guests[name] = Guest(name, self._config.rollout.workers, channel)
            self._board.begin("sdpo_worker_exits_total", worker=name)
            channel.send("welcome")
            await self._talk(guest, channel)
        finally:
            if guest is not None:
                guest.ready = False
                del self._guests[guest.name]
                self._board.remove("sdpo_worker_up", worker=guest.name)
                if not self._closing:
                    self._on_death(guest, guest.silence or "its connection ended")
            await channel.close()

    async def _talk(self, member: Member, channel: Channel) -> None:
        if self._up:
            channel.send("roster", **_roster(self._pool.roster))
        async for message in channel.messages():
            member.heard = time.monotonic()
            getattr(self, f"_hear_{message.pop('kind')}")(member, **message)

    def _hear_ready(self, member: Member) -> None:
        member.ready = True
        if isinstance(member, Guest):
            self._progress(f"rollout worker {member.name} has joined")
        self._collects.ask(list(self._ready.values()))
        self._give_leases()
        self._news.set()

    def _hear_alive(self, member: Member) -> None:
        """A sign of life, as every message is."""

    def _hear_attempt(
        self, _member: Member, position: int = -1, number: int = -1, **facts: Any
    ) -> None:
        if position >= 0:
            self._judged[position] += 1
            self._tell_attempt(facts)
        else:
            self._collects.judged(number)

    def _hear_receipt(self, _member: Member, receipt: Message) -> None:
        assert self._desk is not None
        self._desk.commit(receipt_from_plain(receipt))
        self._guests_failed = 0
        self._give_leases()
        self._news.set()

    def _hear_gave_up(self, _member: Member, position: int, reason: str) -> None:
        assert self._desk is not None
        self._desk.drop(position, reason)
        self._judged.pop(position, None)
        self._give_leases()

    def _hear_collected(self, _member: Member, number: int, sums: Sums) -> None:
        self._collects.answer(number, sums)
        self._news.set()

    def _hear_complain(self, member: Member, engine: list[Any], why: str, reason: str) -> None:
        (served,) = engines_of([engine])
        if isinstance(member, Guest):
            self._task(self._look_into(member, served, why, reason))
        else:
            self._pool.complain(served, why, reason)

    async def _look_into(self, guest: Guest, served: Served, why: str, reason: str) -> None:
        """It may be the way between the two that is broken: then the others keep the engine."""
        if reason == "died" and await self._pool.answers(served):
            self._progress(
                f"rollout worker {guest.name} goes without engine {served.url} until the next "
                f"version; from here it answers: {why}"
            )
        else:
            self._pool.complain(served, why, reason)

    def _hear_load(self, member: Member, engine: list[Any], in_flight: int) -> None:
        (served,) = engines_of([engine])
        self._loads[served][member] = in_flight
        self._pool.note_load(served, self._loads[served].total())

    def _hear_board(
        self, _member: Member, how: str, name: str, value: float, labels: dict[str, str]
    ) -> None:
        getattr(self._board, how)(name, value, **labels)

    def _hear_warn(self, _member: Member, text: str) -> None:
        self._progress(text)

    def _hear_failed(self, member: Member, error: str, text: str) -> None:
        if isinstance(member, Guest):  # most likely its machine's trouble, not the run's
            self._progress(f"rollout worker {member.name} cannot work: {text}")
            self._guests_failed += member.ready
            member.ready = False  # what else it has to say counts no more
            member.end()
        limit = self._config.rollout.workers.max_restarts
        if isinstance(member, Own) or self._guests_failed > limit:
            self._fail(getattr(errors, error, RuntimeError)(text))

    def _on_death(self, member: Member, why: str) -> None:
        self._board.add("sdpo_worker_exits_total", worker=member.name)
        for served, loads in self._loads.items():
            loads.pop(member, None)
            self._pool.note_load(served, loads.total())
        if self._desk is not None:
            for position in self._desk.worker_gone(member.name):
                self._judged.pop(position, None)
            self._give_leases()
        self._collects.ask(list(self._ready.values()))
        self._progress(f"rollout worker {member.name}: {why}; its groups are given out again")

    async def _watch_deadlines(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_POLL_S)
            for member in self._members:
                member.end_if_silent()
            self._end_if_alone()
            if self._desk is not None and (late := self._desk.expire()):
                self._progress(f"groups {late} were not made in time: they are given out again")
                self._to_all("give_up", positions=late)
                for position in late:
                    self._judged.pop(position, None)
                self._give_leases()

    def _end_if_alone(self) -> None:
        """Without a worker of ours, wait for others only so long."""
        limit = self._config.rollout.workers.start_timeout_s
        if self._ready or self._own:  # ours are restarted, or end the run themselves
            self._ready_at = time.monotonic()
        elif time.monotonic() - self._ready_at > limit:
            self._fail(
                errors.WorkerDied(
                    f"no rollout worker has been here for {limit:g} s "
                    "(rollout.workers.start_timeout_s), and none is started here "
                    f"(rollout.workers.count=0). On another machine: sdpo worker {self._run}"
                )
            )

    async def _next_news(self) -> None:
        await self._news.wait()
        self._news.clear()
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._news.set()

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def told() -> None:
            """What ends it is raised where somebody waits for a batch."""
            try:
                await work
            except Exception as error:
                self._fail(error)

        task = asyncio.ensure_future(told())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _shares(held: Mapping[Member, int], num: int, capacity: int) -> Counter[Member]:
    """How many of `num` groups each gets: one by one to whoever holds the fewest, as long as that
    is less than `capacity`."""
    then, shares = dict(held), Counter[Member]()
    for _ in range(num):
        member = min(then, key=then.__getitem__)
        if then[member] >= capacity:
            break
        then[member] += 1
        shares[member] += 1
    return shares


def _roster(roster: Roster) -> Message:
    return {**vars(roster), "engines": [[engine.url, engine.life] for engine in roster.engines]}
