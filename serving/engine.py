"""One engine as the pool sees it.

ready ──begin──► updating ──complete──► ready
  │                 │ fails, or is late
  └─dies, hangs─────┴──► out ──reloaded from disk, or restarted and then reloaded──► ready
                           └──more than max_restarts, or wrong again from disk──► lost
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from serving.client import EngineClient
from serving.launch import EngineProcess
from serving.router import Served

State = Literal["ready", "updating", "out", "lost"]
STATES: tuple[State, ...] = ("ready", "updating", "out", "lost")


@dataclass(eq=False)
class Engine:
    """`process` is None for an engine that somebody else runs.

    Attributes:
        life: Grows whenever it leaves the pool: what was sent or opened to it before is void.
        version: That it was last brought to.
        paused_at: Since when it generates nothing, by `time.monotonic`.
    """

    client: EngineClient
    process: EngineProcess | None
    state: State = "ready"
    in_flight: int = 0
    restarts: int = 0
    life: int = 0
    version: int = 0
    why: str = ""
    joined: bool = False  # has been ready before
    paused_at: float = 0.0
    recovery: asyncio.Task[None] | None = field(default=None, repr=False)
    watch: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.client.url

    @property
    def serves(self) -> bool:
        """Whether requests may be sent to it; while it is updated they wait there."""
        return self.state in ("ready", "updating")

    @property
    def served(self) -> Served:
        """Its name for routers and senders, which another life does not share."""
        return Served(self.client.url, self.life)

    @property
    def label(self) -> str:
        """Its name in metrics: the same after a restart on another port."""
        return f"engine-{self.process.index}" if self.process else self.client.url
