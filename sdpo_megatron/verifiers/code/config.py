"""How code is judged: limits, reward, feedback."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import Field

from sdpo_megatron.fields import PositiveInt, Seconds, settings
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

    item_wall_s: Seconds = 600.0
    """Wall time of all tests of a LiveCodeBench item together, seconds: to pass it is wrong."""

    memory_mib: Annotated[int, Field(ge=32)] = 1024
    """Memory of all processes of the attempt together, MiB; what AtCoder allows."""

    output_kib: PositiveInt = 1024
    """stdout and stderr, KiB each; at least twice what a test expects."""

    reward: Literal["all", "fraction"] = "all"
    """all: 1 when every test passes, else 0. fraction: the share of tests that pass (runs all of
    them)."""

    quote_code: bool = False
    """Quote the attempt's own failing line. Off: a small teacher copies the bug."""

    max_feedback_chars: Annotated[int, Field(ge=200)] = 2000
    """Longer feedback is shortened in the middle."""

    def deadline_s(self, num_tests: int) -> float:
        """Wall time of all tests of an item together: one may be slow, the others need CPU time."""
        derived = self.wall_s + (num_tests - 1) * (self.cpu_s + 1.0)
        return min(derived, self.item_wall_s)

    def text_limit(self) -> int:
        """Characters of one value in feedback, so that a case of several fits."""
        return min(max(self.max_feedback_chars // 5, 40), 1500)

    def limits(self) -> dict[str, Any]:
        """What one run of the attempt may use, by the names of `RunLimits`."""
        return {field.name: getattr(self, field.name) for field in fields(RunLimits)}
