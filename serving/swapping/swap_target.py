"""What rank 0 tells the sending ranks about a swap, and what they tell it. Plain data: it crosses
processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.router import Served


@dataclass(frozen=True, kw_only=True)
class SwapTarget:
    """A swap that has begun.

    Attributes:
        number: Of the policy version.
        engines: They are paused and wait for the weights.
        seconds_left: Until its deadline.
    """

    number: int
    engines: tuple[Served, ...] = ()
    seconds_left: float = 0.0


@dataclass(frozen=True)
class SwapFailure:
    """Why an engine did not get all of the weights.

    Attributes:
        died: It does not answer, or too late: only a restart helps. Else it can reload.
    """

    why: str
    died: bool = False


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """How a stage's part went.

    Attributes:
        failures: Of each engine that failed, by URL.
        checksums: For each tensor-parallel rank of an engine, checksum by SGLang's parameter name;
            empty where none is known.
        num_bytes: Sent, counting each engine.
        seconds: By what took them: open, and send (with the gathering that it waited for).
    """

    failures: Mapping[str, SwapFailure] = field(default_factory=dict)
    checksums: tuple[Mapping[str, str], ...] = ()
    num_bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
