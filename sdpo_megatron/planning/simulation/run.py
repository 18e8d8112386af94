"""The architecture as events: controller, rollout workers, engines, verifiers, trainer.

    controller   leases a question to the engine with the least load while
                 leased < (max_staleness + version + 1) x batch, and engines have room
    engines      decode (`engine`); a swap pauses all of them and their requests go on after it
    verifiers    a fixed number at once, first come first served
    workers      one per cell, in order: parsing, teacher's prompts, the group's file
    trainer      takes the oldest whole batch, drops what is older than max_staleness versions,
                 trains, publishes, and begins again

Deterministic: lengths are drawn once, from the seed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sdpo_megatron.planning.phases import Model
from sdpo_megatron.planning.simulation.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a simulated run did.

    Attributes:
        steps: Trained.
        step_s: Seconds a step, the first one (which fills the engines) left out.
        trainer_busy, engines_busy, judges_busy, workers_busy: Shares of the time.
        running: Requests decoded at once by an engine, on average over the time.
        tokens_per_s: Response tokens trained on in a second.
        waiting_s: Of the trainer for a batch, in a step.
        staleness: Versions between a group's first token and its training: on average.
        dropped: Groups that were too old when a batch was planned.
        events: That it took.
    """

    steps: int
    step_s: float
    trainer_busy: float
    engines_busy: float
    judges_busy: float
    workers_busy: float
    running: float
    tokens_per_s: float
    waiting_s: float
    staleness: float
    dropped: int
    events: int


@dataclass
class _Group:
    number: int
    engine: int
    version: int
    left: int
    tokens: float
    judged: float = 0.0


@dataclass
class _State:
    """Counts and clocks of a run."""

    version: int = 0
    leased: int = 0
    dropped: int = 0
    training: bool = False
    waiting_since: float = 0.0
    waited: float = 0.0
    trained_s: float = 0.0
    judged_s: float = 0.0
    worked_s: float = 0.0
    staleness: int = 0
    taken: int = 0
    step_ends: list[float] = field(default_factory=list)


class Simulation:
    """A run of a number of steps."""

    def __init__(
        self,
        model: Model,
        *,
        max_staleness: int,
        steps: int,
        seed: int = 0,
        train_s: Callable[[], float] | None = None,
    ) -> None:
        """
        Args:
            model: Gives what each part takes.
            max_staleness: Versions that generation may run ahead.
            steps: To train.
            train_s: Seconds of a step's training; those of the model unless given.
        """
        self._model, self._eta, self._steps = model, max_staleness, steps
        cluster, work = model.cluster, model.work
        self._engines = [Engine(model.speeds, cluster.slots) for _ in range(cluster.engines)]
        self._epochs = [0] * cluster.engines
        self._loads = [(0, i) for i in range(cluster.engines)]
        self._judges = [0.0] * cluster.judges
        self._workers = [0.0] * cluster.cells
        self._groups: dict[int, _Group] = {}
        self._ready: deque[_Group] = deque()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now, self._num_events, self._in_flight = 0.0, 0, 0
        self._state = _State()
        draw = random.Random(seed)
        self._lengths = itertools.cycle(work.lengths.drawn(max(4096, work.attempts), draw))
        trained = model.train_s()
        self._train_s = train_s or (lambda: trained)
        self._publish_s = model.publish().seconds
        python = model.speeds.sample_us + model.speeds.teach_us + model.speeds.store_us
        self._worker_s = python * 1e-6

    def run(self) -> Outcome:
        """Until all steps are trained."""
        self._lease()
        while self._state.version < self._steps:
            self._now, _, action = heapq.heappop(self._events)
            self._num_events += 1
            action()
        return self._outcome()

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), action))

    # --- controller -------------------------------------------------------------------------------

    def _lease(self) -> None:
        """Questions to engines, as far as staleness and slots allow."""
        state, work, cluster = self._state, self._model.work, self._model.cluster
        allowed = (self._eta + state.version + 1) * work.questions + state.dropped
        room = cluster.engines * cluster.slots
        touched = set()
        while state.leased < allowed and (self._in_flight < room or not self._eta):
            index = self._least_loaded()
            engine = self._engines[index]
            engine.advance(self._now)
            lengths = [next(self._lengths) for _ in range(work.num_attempts)]
            group = _Group(state.leased, index, state.version, work.num_attempts, sum(lengths))
            self._groups[group.number] = group
            for i, tokens in enumerate(lengths):
                request = group.number * work.num_attempts + i
                engine.add(request, tokens, work.prompt, self._model.prompt_s())
            heapq.heappush(self._loads, (engine.load, index))
            touched.add(index)
            state.leased += 1
            self._in_flight += work.num_attempts
        for index in sorted(touched):
            self._expect(index)

    def _least_loaded(self) -> int:
        """Entries that no longer tell the truth are thrown away when they come up."""
        while True:
            load, index = heapq.heappop(self._loads)
            if load == self._engines[index].load:
                return index

    # --- engines, verifiers, workers --------------------------------------------------------------

    def _expect(self, index: int) -> None:
        """The engine's next end; an earlier expectation becomes void."""
        self._epochs[index] += 1
        epoch, when = self._epochs[index], self._engines[index].next_end()
        if when != float("inf"):
            self._at(when, lambda: self._ended(index) if epoch == self._epochs[index] else None)

    def _ended(self, index: int) -> None:
        engine = self._engines[index]
        engine.advance(self._now)
        request = engine.end()
        self._in_flight -= 1
        heapq.heappush(self._loads, (engine.load, index))
        self._expect(index)
        group = self._groups[request // self._model.work.num_attempts]
        free = heapq.heappop(self._judges)
        verdict = max(free, self._now) + self._model.speeds.judge_s
        heapq.heappush(self._judges, verdict)
        self._state.judged_s += self._model.speeds.judge_s
        group.left -= 1
        group.judged = max(group.judged, verdict)
        if not group.left:
            self._at(group.judged, lambda: self._judged(group))
        if self._eta:
            self._lease()

    def _judged(self, group: _Group) -> None:
        cell = group.engine * len(self._workers) // len(self._engines)
        seconds = self._worker_s * group.tokens
        self._workers[cell] = max(self._workers[cell], self._now) + seconds
        self._state.worked_s += seconds
        del self._groups[group.number]
        self._at(self._workers[cell], lambda: self._committed(group))

    def _committed(self, group: _Group) -> None:
        self._ready.append(group)
        self._train_if_ready()

    # --- trainer ----------------------------------------------------------------------------------

    def _train_if_ready(self) -> None:
        state, batch = self._state, self._model.work.questions
        if state.training:
            return
        fresh = [g for g in self._ready if state.version - g.version <= self._eta]
        if dropped := len(self._ready) - len(fresh):
            state.dropped += dropped
            self._ready = deque(fresh)
            self._lease()
        if len(self._ready) < batch:
            return
        taken = [self._ready.popleft() for _ in range(batch)]
        state.taken += batch
        state.staleness += sum(state.version - group.version for group in taken)
        state.waited += self._now - state.waiting_since
        state.training = True
        seconds = self._train_s()
        state.trained_s += seconds
        self._at(self._now + seconds, self._publish)

    def _publish(self) -> None:
        """Engines pause, and the trainer sends; then both go on."""
        for index, engine in enumerate(self._engines):
            engine.advance(self._now)
            if engine.load:
                engine.pause(self._publish_s)
                self._expect(index)
        self._at(self._now + self._publish_s, self._published)

    def _published(self) -> None:
        state = self._state
        state.version += 1
        state.training = False
        state.step_ends.append(self._now)
        state.waiting_since = self._now
        self._lease()
        self._train_if_ready()

    def _outcome(self) -> Outcome:
        state, cluster, ends = self._state, self._model.cluster, self._state.step_ends
        for engine in self._engines:
            engine.advance(self._now)
        total = self._now
        later = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else total
        work = self._model.work
        return Outcome(
            steps=len(ends),
            step_s=later,
            trainer_busy=state.trained_s / total,
            engines_busy=sum(e.busy_s for e in self._engines) / total / cluster.engines,
            judges_busy=state.judged_s / total / cluster.judges,
            workers_busy=state.worked_s / total / cluster.cells,
            running=sum(e.running_s for e in self._engines) / total / cluster.engines,
            tokens_per_s=work.response_tokens / later,
            waiting_s=state.waited / len(ends),
            staleness=state.staleness / max(1, state.taken),
            dropped=state.dropped,
            events=self._num_events,
        )
