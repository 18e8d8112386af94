"""ToolCall: one call as a response made it; UnreadableCalls: why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """One call: the tool's name and its arguments by name."""

    name: str
    arguments: Mapping[str, Any]


class UnreadableCalls(ValueError):
    """The response holds no readable call; the message may be shown to a model and quotes nothing
    of the response."""
