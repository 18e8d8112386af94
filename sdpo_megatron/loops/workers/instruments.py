"""What the ledger and the workers look like, as metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sdpo_megatron.loops.workers.crew import Crew
from sdpo_megatron.nouns import GroupReceipt
from sdpo_megatron.observability.board import Board
from sdpo_megatron.rollout.desk import OLDEST
from sdpo_megatron.rollout.ledger.book import STATES, Book
from sdpo_megatron.rollout.making import SUMS

DROPPED = ("stale", "no_signal")
RETURNED = ("expired", "worker_died", "abandoned", "file_lost", "restart")


class GroupInstruments:
    """Live series at each scrape, and the metrics of each rollout batch."""

    def __init__(self, board: Board, crew: Crew) -> None:
        self._board, self._crew = board, crew
        self._dropped: Counter[str] = Counter()
        self._returned: Counter[str] = Counter()
        self._restarts = 0
        self._book: Book | None = None
        board.before_collect(self._look)

    def show(self, book: Book) -> None:
        """From now on, of this state."""
        self._book = book
        self._dropped, self._returned = Counter(book.dropped), Counter(book.returned)

    def of_batch(self, groups: Sequence[GroupReceipt], version: int) -> dict[str, float]:
        """Metrics of a batch that was cut just now, to be trained on by `version`."""
        assert self._book is not None
        ages = [version - oldest for group in groups for oldest in group.notes[OLDEST]]
        for age in ages:
            self._board.observe("sdpo_attempt_staleness_versions", age)
        attempts = sum(group.notes[SUMS]["attempts"] for group in groups)
        retracted = sum(group.notes[SUMS]["of_several_versions"] for group in groups)
        dropped = Counter(self._book.dropped) - self._dropped
        returned = Counter(self._book.returned) - self._returned
        self._dropped += dropped
        self._returned += returned
        restarts, self._restarts = self._crew.restarts - self._restarts, self._crew.restarts
        sums = self._book.sums()
        return {
            "rollout/staleness_max": float(max(ages, default=0)),
            "rollout/staleness_mean": sum(ages) / len(ages) if ages else 0.0,
            "rollout/retracted_fraction": retracted / attempts if attempts else 0.0,
            **{f"ledger/{state}": float(sums[state]) for state in (*STATES, "dropped")},
            **{f"ledger/dropped_{reason}": float(dropped[reason]) for reason in DROPPED},
            **{f"ledger/returned_{reason}": float(returned[reason]) for reason in RETURNED},
            "worker/restarts": float(restarts),
        }

    def _look(self) -> None:
        if self._book is not None:
            for state in STATES[:-1]:  # those trained on only grow
                self._board.set("sdpo_groups_live", self._book.num(state), state=state)
        self._board.set("sdpo_attempts_in_flight", self._crew.attempts_in_flight)
        for name, ready in self._crew.members:
            self._board.set("sdpo_worker_up", float(ready), worker=name)
