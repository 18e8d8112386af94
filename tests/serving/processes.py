"""Looking at real processes in tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def running_with(word: str) -> list[int]:
    """Process ids whose command line or environment holds `word`, zombies excluded."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if state != "Z" and word.encode() in text:
                found.append(int(entry.name))
    return found


def eventually(condition: Callable[[], bool], within_s: float = 60.0) -> bool:
    """Poll until `condition()`; the bound only ends a test that has failed."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
