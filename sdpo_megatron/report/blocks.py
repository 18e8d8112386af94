"""The attempts of a run as compressed blocks, as many as a page holds.

A block is a JSON list of attempts of one step, deflated: the page inflates the one that somebody
looks at. Of each step the attempts with token scores make the first block, the others those after
it. Where not everything fits, scored ones come first, and steps that are spread over the run: the
first, the last, then those whose number more powers of two divide. So what a page of a running run
shows does not jump from step to step, and what does not fit is never read twice.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdpo_megatron.report.attempts import attempts_of_step, changed, recorded_steps

__all__ = ["MOST_ATTEMPTS", "MOST_BYTES", "Block", "BlockCache", "Selection"]

MOST_ATTEMPTS = 10_000
MOST_BYTES = 15 * 2**20
"""Of all blocks of a page, in base64."""
_BLOCK_CHARS = 200_000
"""JSON of a block, about: what is inflated to show one attempt."""
_LEVEL = 6
INDEXED = ("question", "index", "success", "reward", "tokens", "finish", "gain")
"""What the list of attempts shows, and filters and sorts by."""


@dataclass(frozen=True)
class Block:
    """Some attempts of a step.

    Attributes:
        rows: The indexed facts of each, in the order of `INDEXED`.
        data: All of each, base64 of deflated JSON.
    """

    step: int
    scored: bool
    rows: tuple[tuple[Any, ...], ...]
    data: str


@dataclass(frozen=True)
class Selection:
    """What fits. `num_recorded` counts the steps on disk, `complete` whether all of them are in."""

    blocks: tuple[Block, ...]
    num_recorded: int
    complete: bool


@dataclass
class BlockCache:
    """The blocks of one run folder; what has been read stays until its files change."""

    run: Path
    _known: dict[int, tuple[tuple[object, ...], list[Block]]] = field(default_factory=dict)

    def select(self, most_attempts: int, most_bytes: int, until: float = float("inf")) -> Selection:
        """What fits into both limits.

        Args:
            until: On the monotonic clock; steps that were not read by then are left for next time.
        """
        steps = recorded_steps(self.run)
        chosen: list[Block] = []
        num, size = 0, 0
        complete = True
        for scored in (True, False):
            for step in spread(steps):
                if num >= most_attempts or size >= most_bytes or time.monotonic() > until:
                    complete = False
                    break
                for block in self._blocks(step):
                    if block.scored is not scored:
                        continue
                    fits = num + len(block.rows) <= most_attempts
                    if not fits or size + len(block.data) > most_bytes:
                        complete = False
                        continue
                    chosen.append(block)
                    num, size = num + len(block.rows), size + len(block.data)
        kept = {block.step for block in chosen}
        self._known = {step: found for step, found in self._known.items() if step in kept}
        chosen.sort(key=lambda block: (block.step, not block.scored))
        return Selection(tuple(chosen), len(steps), complete)

    def _blocks(self, step: int) -> list[Block]:
        stamp = changed(self.run, step)
        known = self._known.get(step)
        if known is None or known[0] != stamp:
            known = stamp, list(_compressed(step, attempts_of_step(self.run, step)))
            self._known[step] = known
        return known[1]


def spread(steps: Sequence[int]) -> list[int]:
    """All steps, in an order of which each beginning is spread over the run."""
    ends = {steps[0], steps[-1]} if steps else set()
    return sorted(steps, key=lambda step: (step not in ends, -(step & -step), step))


def _compressed(step: int, attempts: Sequence[dict[str, Any]]) -> Iterator[Block]:
    for scored in (True, False):
        texts: list[str] = []
        rows: list[tuple[Any, ...]] = []
        for attempt in attempts:
            if ("gap" in attempt) is not scored:
                continue
            texts.append(json.dumps(attempt, allow_nan=False, separators=(",", ":")))
            rows.append(tuple(attempt.get(name) for name in INDEXED))
            if sum(map(len, texts)) > _BLOCK_CHARS:
                yield Block(step, scored, tuple(rows), packed(f"[{','.join(texts)}]"))
                texts, rows = [], []
        if texts:
            yield Block(step, scored, tuple(rows), packed(f"[{','.join(texts)}]"))


def packed(text: str) -> str:
    """base64 of the deflated (RFC 1950) UTF-8 text."""
    return base64.b64encode(zlib.compress(text.encode(), _LEVEL)).decode()
