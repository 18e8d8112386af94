"""Which items a service may accept: those that its workers can judge before their deadlines.

Nothing here is a guess. How long an item of a verifier takes is the mean of those measured; while
none was, the longest that one has been running is all that is known, and no more than a worker
each are accepted.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence

MAX_RETRY_AFTER_S = 60
# Weight of the newest measurement once there are many; before that all count alike.
NEWEST = 0.05
# Seconds of idleness after which what was measured counts no more.
STALE_S = 30.0


class Refused(Exception):
    """The batch is not accepted; `retry_after_s` is when it may be."""

    def __init__(self, why: str, retry_after_s: float) -> None:
        super().__init__(why)
        self.retry_after_s = max(1, min(math.ceil(retry_after_s), MAX_RETRY_AFTER_S))


class Admission:
    """Knows what was accepted, what is running since when, and how long items took."""

    def __init__(self, *, workers: int, queue_size: int) -> None:
        self._workers, self._queue_size = workers, queue_size
        self._accepted: Counter[str] = Counter()  # by verifier, running ones included
        self._running: dict[int, tuple[str, float]] = {}  # ticket: verifier, when it began
        self._mean_s: dict[str, float] = {}
        self._measured: Counter[str] = Counter()
        self._last_end = time.monotonic()
        self._tickets = 0

    @property
    def num_accepted(self) -> int:
        """Items accepted and not finished."""
        return self._accepted.total()

    @property
    def full(self) -> bool:
        """Whether not one more item would be accepted."""
        return self.num_accepted >= self._queue_size

    def admit(self, verifiers: Sequence[str], deadline_s: float | None) -> None:
        """Count a batch, one name for each item, as accepted.

        Raises:
            Refused: It would pass the bound of the queue, or end after `deadline_s` seconds.
        """
        self._forget()
        before_s = max(0.0, self._work_s(self._accepted) - self._done_s()) / self._workers
        if self.num_accepted + len(verifiers) > self._queue_size:
            raise Refused("the queue is full", before_s)
        if deadline_s is not None:
            self._refuse_late(Counter(verifiers), before_s, deadline_s)
        self._accepted.update(verifiers)

    def begin(self, verifier: str) -> int:
        """An accepted item has a worker; the ticket is for `end`."""
        self._tickets += 1
        self._running[self._tickets] = (verifier, time.monotonic())
        return self._tickets

    def end(self, ticket: int) -> float:
        """It is finished, or was given up; seconds that it took."""
        verifier, started = self._running.pop(ticket)
        self._last_end = time.monotonic()
        seconds = self._last_end - started
        self._measured[verifier] += 1
        weight = max(NEWEST, 1.0 / self._measured[verifier])
        mean = self._mean_s.get(verifier, 0.0)
        self._mean_s[verifier] = mean + weight * (seconds - mean)
        return seconds

    def leave(self, verifier: str) -> None:
        """An accepted item is answered, with or without having had a worker."""
        self._accepted[verifier] -= 1

    def _refuse_late(self, batch: Counter[str], before_s: float, deadline_s: float) -> None:
        unknown = sorted(name for name in batch if name not in self._mean_s)
        waiting = sum(self._accepted[name] for name in unknown)
        if waiting >= self._workers:
            raise Refused(
                f"how long an item of {', '.join(unknown)} takes is not known before the first one "
                f"is judged, and {waiting} are being judged or wait for that",
                max(self._seconds(name) for name in unknown),
            )
        ends_s = before_s + self._work_s(batch) / self._workers
        ends_s = max(ends_s, max(self._seconds(name) for name in batch))
        if ends_s > deadline_s:
            raise Refused(
                f"it would end in about {ends_s:.1f} s, and its deadline is {deadline_s:g} s",
                min(before_s, ends_s - deadline_s),
            )

    def _forget(self) -> None:
        """What was measured long ago says nothing of now, and would never be measured again if
        everything were refused for its sake."""
        if not self.num_accepted and time.monotonic() - self._last_end > STALE_S:
            self._mean_s.clear()
            self._measured.clear()

    def _seconds(self, verifier: str) -> float:
        """Of one item: as measured, or as long as one has been running."""
        now = time.monotonic()
        since = (now - start for name, start in self._running.values() if name == verifier)
        return self._mean_s.get(verifier) or max(since, default=0.0)

    def _work_s(self, counts: Mapping[str, int]) -> float:
        return sum(count * self._seconds(name) for name, count in counts.items())

    def _done_s(self) -> float:
        """Of the work of running items, what is behind them."""
        now = time.monotonic()
        return sum(min(now - start, self._seconds(n)) for n, start in self._running.values())
