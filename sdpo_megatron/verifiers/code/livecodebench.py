"""LiveCodeBench: stdin programs compared by their output, functions by the value they return; a
fresh run for each test.

Comparison as in the benchmark's own runner: outputs line by line without surrounding blanks, then
number by number as exact decimals; returned tuples count as lists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from sdpo_megatron.errors import VerifierUnavailable
from sdpo_megatron.sandbox import Program, RunResult, Sandbox
from sdpo_megatron.sandbox.inside.plain_data import Opaque
from sdpo_megatron.sandbox.inside.render import render
from sdpo_megatron.verifiers.harmless import harmless

from .feedback import case_text, crash_text, error_text, limit_text
from .outcome import Outcome
from .reading import readings

if TYPE_CHECKING:
    from .config import CodeVerifierConfig

# What the benchmark's own runner imports for every program.
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
"""


def judge_livecodebench(
    sandbox: Sandbox, config: CodeVerifierConfig, item: Mapping[str, Any], response: str
) -> Outcome:
    """Runs the public tests first, then the hidden ones; stops at the first failure unless the
    reward is a fraction."""
    tests, entry = list(item["tests"]), str(item.get("entry_point", ""))
    public = sorted({int(index) for index in item["public"]})
    if not tests or (public and not 0 <= public[0] <= public[-1] < len(tests)):
        raise ValueError(f"public tests {public} of an item with {len(tests)} tests")
    counts: dict[str, Any] = {"num_tests": len(tests), "num_public": len(public)}
    found = readings(response, str(item.get("starter_code", "")) if entry else "", entry)
    if not found:
        return Outcome(
            kind="no_code", num_passed=0, format_ok=False, feedback=_no_code(entry), **counts
        )
    first: dict[str, Any] | None = None
    passed, layers = 0, sandbox.layers
    for index in [*public, *(index for index in range(len(tests)) if index not in set(public))]:
        run = sandbox.run(_program(found, entry, tests[index], config))
        layers = run.layers
        failure = _failure(run, entry, tests[index], config, found)
        if failure is None:
            passed += 1
            continue
        is_public = index in public
        if first is None:
            first = {**failure, "failed_test": index, "failed_hidden_only": not is_public}
            if is_public and failure["kind"] not in ("syntax", "no_code"):
                first["feedback"] = _place(public, index) + failure["feedback"]
        if config.reward == "all" or failure["kind"] in ("syntax", "no_code"):
            break
    if first is None:
        return Outcome(kind="passed", num_passed=passed, layers=layers, **counts)
    if first["failed_hidden_only"]:
        first["feedback"] = ""
    return Outcome(num_passed=passed, layers=layers, **counts, **first)


def _place(public: list[int], index: int) -> str:
    return f"Public test {public.index(index) + 1} of {len(public)} fails.\n"


def _no_code(entry: str) -> str:
    return (
        f"No Python code was found that defines `{entry}`."
        if entry
        else "No Python program was found."
    )


def _program(
    found: tuple[tuple[str, str], ...],
    entry: str,
    test: Mapping[str, Any],
    config: CodeVerifierConfig,
) -> Program:
    if not entry:
        stdin = str(test["input"]).encode()
        return Program(readings=found, prelude=PRELUDE, stdin=stdin, limits=config.limits())
    arguments = tuple(json.loads(line) for line in str(test["input"]).split("\n") if line.strip())
    return Program(
        readings=found,
        mode="call",
        prelude=PRELUDE,
        entry=entry,
        args=arguments,
        limits=config.limits(),
    )


def _failure(
    run: RunResult,
    entry: str,
    test: Mapping[str, Any],
    config: CodeVerifierConfig,
    found: tuple[tuple[str, str], ...],
) -> dict[str, Any] | None:
    """What is wrong with this run, as fields of an Outcome; None when the test passes."""
    report, case = run.report, {"Input": str(test["input"])}
    if run.cause:
        return {
            "kind": run.cause,
            "feedback": case_text(limit_text(run.cause, config.limits()), case),
        }
    if "missing" in report:
        return {"kind": "no_code", "format_ok": False, "feedback": _no_code(entry)}
    if isinstance(report.get("error"), Mapping):
        text = error_text(report["error"], _code(report, found) if config.quote_code else "")
        if report.get("loaded") is not True:
            return {"kind": "syntax", "format_ok": False, "feedback": text}
        return {"kind": "raised", "feedback": case_text("Runtime error.", case) + "\n" + text}
    if run.signal is not None:
        return {"kind": "crashed", "feedback": case_text(crash_text(run.signal), case)}
    if run.exit_code is None:
        raise VerifierUnavailable("a run ended without an exit code or a signal")
    return _compare_value(report, test, case) if entry else _compare_output(run, test, case)


def _code(report: Mapping[str, Any], found: tuple[tuple[str, str], ...]) -> str:
    chosen = report.get("chosen", 0)
    return found[chosen][1] if isinstance(chosen, int) and 0 <= chosen < len(found) else ""


def _compare_output(
    run: RunResult, test: Mapping[str, Any], case: dict[str, str]
) -> dict[str, Any] | None:
    got, expected = run.stdout.decode("utf-8", "replace"), str(test["output"])
    if same_output(got, expected):
        return None
    return _wrong(case, expected, got if got.strip() else "(nothing was printed)")


def _compare_value(
    report: Mapping[str, Any], test: Mapping[str, Any], case: dict[str, str]
) -> dict[str, Any] | None:
    if "value" not in report:
        problem = str(report.get("unusable", "the program ended before it returned an answer"))
        return {
            "kind": "raised",
            "feedback": case_text(f"No usable value: {harmless(problem, 200)}", case),
        }
    value, expected = report["value"], json.loads(str(test["output"]))
    if _as_lists(value) == _as_lists(expected):
        return None
    got = f"an object of type {value.type_name}" if isinstance(value, Opaque) else render(value)
    return _wrong(case, render(expected), got)


def _wrong(case: dict[str, str], expected: str, got: str) -> dict[str, Any]:
    return {
        "kind": "wrong",
        "feedback": case_text("Wrong answer.", {**case, "Expected": expected, "Got": got}),
    }


def _as_lists(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return value


def same_output(got: str, expected: str) -> bool:
    """Whether two outputs agree: the same lines, or lines of the same numbers."""
    left, right = _lines(got), _lines(expected)
    if len(left) != len(right):
        return False
    return all(a == b or _same_numbers(a, b) for a, b in zip(left, right, strict=True))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_numbers(left: str, right: str) -> bool:
    if len(left) > 1_000_000:
        return False
    try:
        return [Decimal(word) for word in left.split()] == [Decimal(word) for word in right.split()]
    except InvalidOperation:
        return False
