"""Where a run's wall time goes: every second belongs to exactly one phase, so they add up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.series import PHASES

__all__ = ["PhaseClock"]


class PhaseClock:
    """Adds the time of each phase to ``sdpo_phase_seconds_total`` and names the current one.

    Phases nest: the inner one's time is not the outer one's.
    """

    def __init__(self, board: Board, now: Callable[[], float] = time.monotonic) -> None:
        self._board, self._now = board, now
        self._lock = threading.Lock()
        self._current, self._since = "", now()
        board.before_collect(self.settle)
        self.enter("start")

    def enter(self, phase: str) -> str:
        """Be in `phase` from now on; returns the one before.

        Raises:
            ValueError: It is none of `PHASES`.
        """
        if phase not in PHASES:
            raise ValueError(f"{phase!r} is not a phase: {', '.join(PHASES)}")
        self.settle()
        with self._lock:
            before, self._current = self._current, phase
        self._board.replace("sdpo_phase_info", 1.0, phase=phase)
        self._board.set("sdpo_phase_start_timestamp_seconds", time.time())
        return before

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Be in `name` for the length of a ``with`` block."""
        before = self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def settle(self) -> None:
        """Count the time of the current phase up to now."""
        with self._lock:
            now = self._now()
            elapsed, self._since = now - self._since, now
            phase = self._current
        if phase:
            self._board.add("sdpo_phase_seconds_total", elapsed, phase=phase)
