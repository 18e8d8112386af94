"""LiveCodeBench: stdin programs compared by their output, functions by the value they return; a
fresh run for each test.

Comparison as in the benchmark's own runner: outputs line by line without surrounding blanks, then
number by number as exact decimals; returned tuples count as lists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdpo_megatron.errors import VerifierUnavailable
from sdpo_megatron.sandbox import Program, RunResult, Sandbox, limit_text
from sdpo_megatron.sandbox.inside.plain_data import encode
from sdpo_megatron.sandbox.inside.verdict.statement import ANSWER_BYTES
from sdpo_megatron.verifiers.base import BadItem, require

from .comparison import COSTLY as COSTLY_DIFFERENCE
from .comparison import compare
from .feedback import (
    COSTLY,
    GARBAGE,
    ITEM_TIME,
    case_text,
    crash_text,
    failed_answer_text,
    no_code_text,
    wrong_facts,
)
from .outcome import Outcome, public_indices
from .program import no_program, quoted_code
from .reading import readings

if TYPE_CHECKING:
    from .config import CodeVerifierConfig

# What the benchmark's own runner does before every program, and no limit on an integer's digits.
PRELUDE = """\
from string import *
from re import *
from datetime import *
from collections import *
from heapq import *
from bisect import *
from copy import *
from math import *
from random import *
from statistics import *
from itertools import *
from functools import *
from operator import *
from io import *
from sys import *
from json import *
from builtins import *
from typing import *
import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics
import itertools, functools, operator, io, sys, json
sys.setrecursionlimit(50000)
sys.set_int_max_str_digits(0)
"""


@dataclass(frozen=True)
class Test:
    """One test: what goes in, what should come out, and the arguments of a function."""

    __test__ = False  # the name is not pytest's

    input: str
    output: str
    arguments: tuple[Any, ...] = ()
    encoded: bytes = b""  # the expected value as a right function would send it


@dataclass(frozen=True)
class LiveCodeBenchItem:
    """A question, checked."""

    entry: str
    starter: str
    tests: tuple[Test, ...]
    public: tuple[int, ...]
    in_fence: bool

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> LiveCodeBenchItem:
        """The item's fields.

        Raises:
            BadItem: One is missing or cannot be used.
        """
        cases = require(item, "tests", (list, tuple))
        entry, starter = item.get("entry_point", ""), item.get("starter_code", "")
        if not isinstance(entry, str) or not isinstance(starter, str):
            raise BadItem("entry_point and starter_code of an item must be texts")
        if entry and not all(part.isidentifier() for part in entry.split(".", 1)):
            raise BadItem(f"the entry point {entry!r} is neither a function nor Class.method")
        if not cases:
            raise BadItem("an item without tests")
        tests = tuple(_test(number, case, bool(entry)) for number, case in enumerate(cases, 1))
        public = public_indices(item, len(tests))
        return cls(entry, starter, tests, public, item.get("opened_fence") is True)

    @property
    def order(self) -> tuple[int, ...]:
        """Public tests first."""
        return (*self.public, *(n for n in range(len(self.tests)) if n not in self.public))


def _test(number: int, case: Any, functional: bool) -> Test:
    if not isinstance(case, Mapping) or not all(
        isinstance(case.get(key), str) for key in ("input", "output")
    ):
        raise BadItem(f"test {number}: expected the texts input and output")
    source, output = case["input"], case["output"]
    if not functional:
        return Test(source, output)
    try:
        arguments = tuple(json.loads(line) for line in source.split("\n") if line.strip())
        return Test(source, output, arguments, encode(json.loads(output)))
    except (ValueError, RecursionError) as error:  # PlainDataError is a ValueError
        raise BadItem(
            f"test {number}: expected one JSON value a line and one of output: {error}"
        ) from error


class LiveCodeBenchJudge:
    """Judges items of kind "livecodebench". Thread-safe."""

    def __init__(self, sandbox: Sandbox, config: CodeVerifierConfig) -> None:
        self._sandbox, self._config = sandbox, config

    def __call__(self, item: Mapping[str, Any], response: str) -> Outcome:
        """Runs the public tests first, then the hidden ones; stops at the first failure unless the
        reward is a fraction.

        Raises:
            BadItem: The item cannot be used; nothing of the response was run.
            VerifierUnavailable: The sandbox failed.
        """
        question = LiveCodeBenchItem.of(item)
        found = readings(response, entry=question.entry, in_fence=question.in_fence)
        counts: dict[str, Any] = {
            "num_tests": len(question.tests),
            "num_public": len(question.public),
        }
        if not found:
            text = no_code_text(question.entry)
            return Outcome(kind="no_code", num_passed=0, format_ok=False, feedback=text, **counts)
        return _Judging(self._sandbox, self._config, question, found).outcome(counts)


class _Judging:
    """One response, test by test."""

    def __init__(
        self,
        sandbox: Sandbox,
        config: CodeVerifierConfig,
        question: LiveCodeBenchItem,
        found: tuple[str, ...],
    ) -> None:
        self._sandbox, self._config, self._question = sandbox, config, question
        self._found = found
        self._left_s = self._deadline_s = config.deadline_s(len(question.tests))

    def outcome(self, counts: dict[str, Any]) -> Outcome:
        question = self._question
        first: dict[str, Any] | None = None
        passed, layers = 0, self._sandbox.layers
        for index in question.order:
            run, failure = self._judge(question.tests[index])
            layers = run.layers if run else layers
            if failure is None:
                passed += 1
                continue
            of_the_program = failure["kind"] in ("syntax", "no_code")
            if first is None:
                is_public = index in question.public
                first = {**failure, "failed_test": index, "failed_hidden_only": not is_public}
                if is_public and not of_the_program:
                    first["feedback"] = self._place(index) + failure["feedback"]
            if self._config.reward == "all" or of_the_program or run is None:
                break
        if first is None:
            return Outcome(kind="passed", num_passed=passed, layers=layers, **counts)
        if first["failed_hidden_only"]:
            first["feedback"] = ""
        return Outcome(num_passed=passed, layers=layers, **counts, **first)

    def _place(self, index: int) -> str:
        public = self._question.public
        return f"Public test {public.index(index) + 1} of {len(public)} fails.\n"

    def _judge(self, test: Test) -> tuple[RunResult | None, dict[str, Any] | None]:
        """The run on one test, and what is wrong with it; no run when the item's time is up."""
        if self._left_s <= 0:
            text = ITEM_TIME.format(item_wall_s=self._deadline_s)
            return None, {"kind": "wall_time", "feedback": case_text(text, self._case(test))}
        limits = self._limits(test)
        run = self._sandbox.run(self._program(test, limits))
        self._left_s -= run.wall_s - min(run.waited_s, run.wall_s)
        return run, self._failure(run, test, limits)

    def _limits(self, test: Test) -> dict[str, float]:
        """The config's, and room for what is expected to be printed."""
        limits = self._config.limits()
        limits["output_kib"] = max(limits["output_kib"], 64 + 2 * (len(test.output) >> 10))
        limits["wall_s"] = min(limits["wall_s"], max(self._left_s, 0.1))
        return limits

    def _program(self, test: Test, limits: Mapping[str, float]) -> Program:
        if not self._question.entry:
            stdin = test.input.encode("utf-8", "surrogatepass")
            return Program(readings=self._found, prelude=PRELUDE, stdin=stdin, limits=limits)
        return Program(
            readings=self._found,
            continues=self._question.starter,
            mode="call",
            prelude=PRELUDE,
            entry=self._question.entry,
            args=test.arguments,
            answer_bytes=max(ANSWER_BYTES, 2 * len(test.encoded)),
            limits=limits,
        )

    def _case(self, test: Test) -> dict[str, str]:
        limit = self._config.text_limit()
        cut = len(test.input) - limit
        shown = f"{test.input[:limit]} ...[{cut} characters cut]..." if cut > 0 else test.input
        return {"Input": shown if shown.strip() else "(none)"}

    def _failure(
        self, run: RunResult, test: Test, limits: Mapping[str, float]
    ) -> dict[str, Any] | None:
        """What is wrong with this run, as fields of an Outcome; None when the test passes."""
        report, case = run.report, self._case(test)
        if run.cause:
            text = limit_text(run.cause, limits)
            return {"kind": run.cause, "feedback": case_text(text, case)}
        if nothing := no_program(report, self._question.entry, self._code(run)):
            return nothing
        if report.kind == "garbage":
            return {"kind": "garbage", "feedback": case_text(GARBAGE, case)}
        if report.kind in ("raised", "unusable") or (
            self._question.entry and report.kind == "exit"
        ):
            text = failed_answer_text(report, self._code(run))
            return {"kind": "raised", "feedback": case_text("Runtime error.", case) + "\n" + text}
        if run.signal is not None:
            return {"kind": "crashed", "feedback": case_text(crash_text(run.signal), case)}
        if run.exit_code is None:
            raise VerifierUnavailable("a run ended without an exit code or a signal")
        if self._question.entry and report.kind != "value":
            return {"kind": "crashed", "feedback": case_text(crash_text(None), case)}
        return self._compare(run, test, case)

    def _compare(self, run: RunResult, test: Test, case: dict[str, str]) -> dict[str, Any] | None:
        functional = bool(self._question.entry)
        if functional and run.report.value == test.encoded:
            return None
        found = compare(
            self._sandbox,
            "value" if functional else "output",
            test.output,
            run.report.value if functional else run.stdout,
            limits=self._config.limits(),
            text_limit=self._config.text_limit(),
        )
        if found is None:
            return None
        if found is COSTLY_DIFFERENCE:
            return {"kind": "unusable", "feedback": case_text(COSTLY, case)}
        facts = wrong_facts(found.expected, found.got, found.where)
        return {"kind": "wrong", "feedback": case_text("Wrong answer.", {**case, **facts})}

    def _code(self, run: RunResult) -> str:
        return quoted_code(self._config, self._found, run.report)
