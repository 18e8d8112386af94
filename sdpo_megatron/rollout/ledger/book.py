"""The state of a run's groups, as the records of its ledger lead to it. No file and no clock.

    waiting ──lease──► leased ──commit──► committed ──batch──► batched ──saved──► trained
       ▲                 │                   │
       ├──────again──────┴───────────────────┤
                                             └──drop──► dropped, by reason

A group is named by its position in the run's order of questions. Two records go back: `again` (its
lease ran out, its worker died, its file is gone) and `resume` (the trainer goes on from the
checkpoint of a step: later steps have not been). A receipt that comes after its lease ran out still
commits; a second one finds the group committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sdpo_megatron.errors import LedgerError
from sdpo_megatron.rollout.ledger.lines import Record

State = Literal["waiting", "leased", "committed", "batched", "trained"]
NO_SIGNAL = "no_signal"  # a reason: the attempts of a group teach nothing
STATES: tuple[State, ...] = ("waiting", "leased", "committed", "batched", "trained")


@dataclass(slots=True)
class Entry:
    """One group.

    Attributes:
        tries: Leases given so far.
        worker: Who has the newest of them.
        step: The rollout batch that it belongs to, from 1; 0 for none.
        receipt: What its worker said when it was complete.
    """

    state: State = "waiting"
    tries: int = 0
    worker: str = ""
    step: int = 0
    receipt: Mapping[str, Any] = field(default_factory=dict)


class Book:
    """What is known after some records; `apply` takes the next one.

    Attributes:
        planned: Positions handed out so far; the next one has this number.
        step: The newest rollout batch.
        saved: Step of the newest checkpoint that is known.
        forgotten: Groups trained on so long ago that no checkpoint is from before; only counted.
        dropped: Groups that are never trained on, by reason.
        returned: Times that a group was begun anew, by reason.
        replaced: Groups dropped for want of signal since the newest rollout batch.
    """

    def __init__(self) -> None:
        self.planned = 0
        self.step = 0
        self.saved = 0
        self.oldest = 0
        self.forgotten = 0
        self.dropped: Counter[str] = Counter()
        self.returned: Counter[str] = Counter()
        self.replaced = 0
        self._entries: dict[int, Entry] = {}
        self._by_state: dict[State, dict[int, None]] = {state: {} for state in STATES}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Book) and self._facts() == other._facts()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def _facts(self) -> tuple[Any, ...]:
        counts = (self.planned, self.step, self.saved, self.oldest, self.forgotten, self.replaced)
        return (*counts, self.dropped, self.returned, self._entries)

    def __getitem__(self, position: int) -> Entry:
        """The group at `position`; KeyError when it is dropped, forgotten or not planned."""
        return self._entries[position]

    def __contains__(self, position: int) -> bool:
        return position in self._entries

    def positions(self, state: State) -> list[int]:
        """The groups in `state`, in the order of the run's questions."""
        return sorted(self._by_state[state])

    def num(self, *states: State) -> int:
        """How many groups are in these states, forgotten ones among the trained."""
        total = sum(len(self._by_state[state]) for state in states)
        return total + (self.forgotten if "trained" in states else 0)

    def of_step(self, step: int) -> list[int]:
        """The groups of a rollout batch, in the order of the run's questions."""
        held = (*self._by_state["batched"], *self._by_state["trained"])
        return sorted(position for position in held if self._entries[position].step == step)

    def sums(self) -> dict[str, int]:
        """Groups by state, and those dropped; they add up to `planned`.

        Raises:
            LedgerError: They do not: a mistake in this program.
        """
        found: dict[str, int] = {state: self.num(state) for state in STATES}
        found["dropped"] = self.dropped.total()
        if sum(found.values()) != self.planned:
            raise LedgerError(f"the ledger does not add up: {self.planned} planned, {found}")
        return found

    def apply(self, record: Record) -> None:
        """Go on by one record.

        Raises:
            LedgerError: It cannot follow what was before; nothing has changed.
        """
        change = getattr(self, f"_{record.get('event')}_", None)
        if change is None:
            raise LedgerError(
                f"ledger: unknown event {record.get('event')!r}; was it written by a newer version?"
            )
        change(**{key: value for key, value in record.items() if key != "event"})

    def _plan_(self, num: int) -> None:
        for position in range(self.planned, self.planned + num):
            self._entries[position] = Entry()
            self._by_state["waiting"][position] = None
        self.planned += num

    def _lease_(self, positions: list[int], worker: str, seconds: float) -> None:
        for position, entry in self._taken(positions, "lease", "waiting"):
            entry.tries += 1
            entry.worker = worker
            self._move(position, "leased")

    def _again_(self, positions: list[int], reason: str) -> None:
        for position, entry in self._taken(positions, "again", "leased", "committed"):
            entry.receipt = {}
            self._move(position, "waiting")
        self.returned[reason] += len(positions)

    def _commit_(self, position: int, receipt: Mapping[str, Any]) -> None:
        for _, entry in self._taken([position], "commit", "waiting", "leased"):
            entry.receipt = receipt
            self._move(position, "committed")

    def _drop_(self, positions: list[int], reason: str) -> None:
        for position, _ in self._taken(positions, "drop", "waiting", "leased", "committed"):
            self._forget(position)
        self.dropped[reason] += len(positions)
        self.replaced += len(positions) if reason == NO_SIGNAL else 0

    def _batch_(self, step: int, positions: list[int]) -> None:
        if step != self.step + 1:
            raise LedgerError(f"ledger: batch {step} follows batch {self.step}")
        for position, entry in self._taken(positions, "batch", "committed"):
            entry.step = step
            self._move(position, "batched")
        self.step, self.replaced = step, 0

    def _saved_(self, step: int, oldest: int) -> None:
        if not self.saved <= step <= self.step or not self.oldest <= oldest <= step:
            raise LedgerError(
                f"ledger: a checkpoint of step {step} (the oldest of {oldest}) after batch "
                f"{self.step}, when {self.saved} (and {self.oldest}) were saved"
            )
        for position in self.positions("batched"):
            if self._entries[position].step <= step:
                self._move(position, "trained")
        for position in self.positions("trained"):
            if self._entries[position].step <= oldest:
                self._forget(position)
                self.forgotten += 1
        self.saved, self.oldest = step, oldest

    def _resume_(self, step: int) -> None:
        if not self.oldest <= step <= self.step:
            raise LedgerError(
                f"the run goes on from step {step}, but its ledger knows what was trained on from "
                f"step {self.oldest} to {self.step} only: a checkpoint is missing, or the ledger "
                "is another run's. Put the checkpoints back, or begin a new run from the exported "
                "weights"
            )
        self.returned["restart"] += len(self._by_state["leased"])
        for position in self.positions("leased"):
            self._move(position, "waiting")
        for position in (*self.positions("batched"), *self.positions("trained")):
            entry = self._entries[position]
            trained = entry.step <= step
            entry.step = entry.step if trained else 0
            self._move(position, "trained" if trained else "committed")
        self.step, self.saved, self.replaced = step, step, 0

    def _taken(
        self, positions: list[int], event: str, *states: State
    ) -> Iterator[tuple[int, Entry]]:
        """The groups at `positions`; all of them are in one of `states`, and named once."""
        for position in positions:
            entry = self._entries.get(position)
            if entry is None or entry.state not in states:
                found = entry.state if entry else "dropped, forgotten or not planned"
                raise LedgerError(
                    f"ledger: {event} of group {position}, which is {found}; expected "
                    f"{' or '.join(states)}"
                )
        if len(set(positions)) != len(positions):
            raise LedgerError(f"ledger: {event} names a group twice: {positions}")
        return ((position, self._entries[position]) for position in positions)

    def _move(self, position: int, state: State) -> None:
        entry = self._entries[position]
        del self._by_state[entry.state][position]
        entry.state = state
        self._by_state[state][position] = None

    def _forget(self, position: int) -> None:
        entry = self._entries.pop(position)
        del self._by_state[entry.state][position]
