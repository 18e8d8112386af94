"""Writes report.html while a run goes on, in a thread of its own: no step waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from sdpo_megatron.files import write_whole
from sdpo_megatron.report.blocks import BlockCache
from sdpo_megatron.report.page import report_page

__all__ = ["NAME", "ReportWriter", "write_report"]

NAME = "report.html"
_LONGEST_S = 10.0
"""Reading steps for one writing; what was not read by then is left for the next one."""
_SHARE = 0.1
"""Of a core's time at most: after a writing of 2 s, the next one begins 18 s later."""


def write_report(cache: BlockCache, until: float = float("inf")) -> Path:
    """Write the report of one run into its folder.

    Raises:
        ConfigError: It is no run folder, or a file of it cannot be read.
        OSError: A full disk, say.
    """
    path = cache.run / NAME
    write_whole(path, report_page([cache], until))
    return path


class ReportWriter:
    """Use as a context manager; at its end the thread is gone.

    Args:
        run: The run folder.
        warn: Told once what went wrong; a run does not fail for its report.
        may_write: Called before each writing; raises once the folder belongs to another trainer.
    """

    def __init__(
        self, run: Path, warn: Callable[[str], None], may_write: Callable[[], None] = lambda: None
    ) -> None:
        self._cache, self._warn, self._may_write = BlockCache(run), warn, may_write
        self._wanted = threading.Event()
        self._ending = threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._work, name="report", daemon=True)

    def __enter__(self) -> ReportWriter:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.finish()

    def after_step(self) -> None:
        """Something is new in the run folder. Returns at once."""
        self._wanted.set()

    def finish(self) -> None:
        """Write what is new since the last writing, and end; waits for it, but not for ever."""
        self._ending.set()
        self._wanted.set()
        self._thread.join(timeout=3 * _LONGEST_S)

    def _work(self) -> None:
        while not self._ending.is_set():
            self._wanted.wait()
            self._wanted.clear()
            began = time.monotonic()
            self._write(began + _LONGEST_S)
            took = time.monotonic() - began
            self._ending.wait(took / _SHARE - took)
        if self._wanted.is_set():
            self._write(time.monotonic() + _LONGEST_S)

    def _write(self, until: float) -> None:
        try:
            self._may_write()
            write_report(self._cache, until)
        except Exception as error:  # whatever it is, the run goes on
            if not self._warned:
                self._warn(f"{NAME} could not be written: {error}; the run goes on without it")
            self._warned = True
