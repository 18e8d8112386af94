"""SIGTERM and SIGINT ask a run to stop. A rank takes note and goes on; the ranks agree on it at the
end of the step, so that it does not matter which of them was asked, or when."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """What this rank has heard.

    Attributes:
        asked: Whether a signal has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._listeners: list[Callable[[], None]] = []

    def take_signals(self) -> None:
        """From now on both signals set `asked` instead of ending the process; those that came while
        they were blocked do so now. Main thread only.
        """
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def call_when_asked(self, listener: Callable[[], None]) -> None:
        """Have `listener` called by the signal handler, or now when the signal has come before."""
        self._listeners.append(listener)
        if self.asked:
            listener()

    def ask(self) -> None:
        """As a signal does; on behalf of another rank, say."""
        self.asked = True
        for listener in self._listeners:
            listener()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.ask()
