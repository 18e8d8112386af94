"""What the engines of a run are to serve, and whether that is about to change."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from sdpo_megatron.errors import EngineError
from sdpo_megatron.nouns import PolicyVersion

_POLL_S = 0.1


class Publication:
    """Use it from one event loop.

    Attributes:
        folder, version: Of what was last published; a folder of None: nothing was.
        swapping: A swap is under way: nobody joins.
        changed: Notified when an engine's state, or any of the above, is another.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.version = PolicyVersion(0)
        self.swapping = False
        self.changed = asyncio.Condition()

    async def notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def settled(self) -> tuple[Path, PolicyVersion] | None:
        """What to serve, once no swap is under way; None: whatever an engine started with."""
        async with self.changed:
            await self.changed.wait_for(lambda: not self.swapping)
        return None if self.folder is None else (self.folder, self.version)

    async def written(self, folder: Path, patience_s: float) -> None:
        """Wait until `folder` is whole: it may be written behind the swap.

        Raises:
            EngineError: It does not appear (disk full), or something newer was published.
        """
        end = time.monotonic() + patience_s
        while not folder.exists():
            if self.folder != folder:
                raise EngineError(f"{folder} was overtaken by {self.folder}")
            if time.monotonic() > end:
                raise EngineError(f"{folder} was not written within {patience_s:g} s")
            await asyncio.sleep(_POLL_S)
