"""How an attempt fared against its tests, before it becomes a Verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdpo_megatron.verifiers.base import BadItem, require

LIMITS = ("cpu_time", "wall_time", "memory", "output", "processes")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What judging found.

    Attributes:
        kind: "passed", "wrong", "raised", "no_code", "syntax", one of LIMITS, "crashed",
            "unusable" (a value that cannot be sent or is too costly to compare) or "garbage" (the
            attempt broke the protocol).
        num_tests: All tests; num_public: how many of them are public.
        num_passed: Tests that passed (tests after the first failure may not have been run).
        feedback: About the first failing public test, or about the program as a whole; harmless
            text.
        failed_hidden_only: No public test failed, a hidden one did; `feedback` is then empty.
        format_ok: A program was found that compiles and defines what it should.
        failed_test: Index of the test that `kind` is about; None when the program failed before any
            test.
        layers: Isolation layers that were active.
    """

    kind: str
    num_tests: int
    num_public: int
    num_passed: int = 0
    feedback: str = ""
    failed_hidden_only: bool = False
    format_ok: bool = True
    failed_test: int | None = None
    layers: tuple[str, ...] = ()

    @property
    def success(self) -> bool:
        return self.kind == "passed"

    def details(self) -> dict[str, Any]:
        """For people. Never shown to a model: it tells how a hidden test failed."""
        return {
            "outcome": self.kind,
            "failed_test": self.failed_test,
            "failed_hidden_only": self.failed_hidden_only,
            "num_tests": self.num_tests,
            "num_public": self.num_public,
            "num_passed": self.num_passed,
        }


def public_indices(item: Mapping[str, Any], num_tests: int) -> tuple[int, ...]:
    """The item's public tests, ascending.

    Raises:
        BadItem: They are no indices of its tests.
    """
    public = require(item, "public", (list, tuple))
    if any(type(index) is not int or not 0 <= index < num_tests for index in public):
        raise BadItem(f"public tests {list(public)!r:.200} of an item with {num_tests} tests")
    return tuple(sorted(set(public)))
