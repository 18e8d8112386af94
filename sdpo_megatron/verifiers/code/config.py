"""How code is judged: limits, reward, feedback."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import Field

from sdpo_megatron.fields import Seconds, settings
from sdpo_megatron.sandbox import RunLimits


@settings
class CodeVerifierConfig(RunLimits):
    """How code is judged. The limits are per test for LiveCodeBench and for all tests of an item
    for HumanEval; no other setting overrides them."""

    cpu_s: Seconds = 6.0
    """CPU time of all processes of the attempt together, seconds: what decides "too slow"."""

    wall_s: Seconds = 60.0
    """Wall time, seconds; ends sleepers, and generous, so that a busy machine does not change
    verdicts. Time in which the attempt was ready but the machine busy does not count (up to 5 times
    the limit)."""

    reward: Literal["all", "fraction"] = "all"
    """all: 1 when every test passes, else 0. fraction: the share of tests that pass (runs all of
    them)."""

    quote_code: bool = False
    """Quote the attempt's own failing line. Off: a small teacher copies the bug."""

    max_feedback_chars: Annotated[int, Field(ge=200)] = 2000
    """Longer feedback is shortened in the middle."""

    def limits(self) -> dict[str, Any]:
        """What one run of the attempt may use, by the names of `RunLimits`."""
        return {field.name: getattr(self, field.name) for field in fields(RunLimits)}
