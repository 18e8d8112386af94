"""Finds mistakes in the tests of many HumanEval items before any attempt: once a process for each
item, in a confined process where this machine has one.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdpo_megatron.errors import VerifierUnavailable
from sdpo_megatron.sandbox import Program, RunResult, Sandbox, SandboxConfig
from sdpo_megatron.sandbox.inside.plain_data import encode
from sdpo_megatron.sandbox.inside.verdict.checks import parse_test
from sdpo_megatron.sandbox.inside.verdict.records import read_record
from sdpo_megatron.sandbox.inside.verdict.rehearsal import SHAPES

from .humaneval import HumanEvalItem

_SOURCE = "from inside.verdict.rehearsal import main\nmain()"
_LIMITS = {"cpu_s": 60.0, "wall_s": 120.0, "memory_mib": 1024}
_fine: set[bytes] = set()  # digests of items that have been rehearsed in this process


def first_mistake(items: Sequence[HumanEvalItem]) -> tuple[int, str] | None:
    """(number, problem) of the first item whose tests cannot be used; None when all can.

    Each item's tests are compiled and run once against a stub. Where the sandbox's minimum of
    isolation is missing they are compiled only: what a task file holds is not run unconfined.
    """
    new = [number for number, item in enumerate(items) if item.digest() not in _fine]
    if not new:
        return None
    try:
        with Sandbox(SandboxConfig(workers=1)) as sandbox:
            run = sandbox.run(_rehearsal([items[number] for number in new]))
    except VerifierUnavailable:
        problems = ((number, _not_python(items[number])) for number in new)
        return next((found for found in problems if found[1]), None)
    mistake = _mistake(run, len(new))
    if mistake is not None:
        return new[mistake[0]], mistake[1]
    _fine.update(items[number].digest() for number in new)
    return None


def _not_python(item: HumanEvalItem) -> str:
    try:
        for source in item.setup:
            compile(source, "<tests>", "exec")
        for source in item.tests.tests:
            compile(parse_test(source), "<tests>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"the tests are not Python: {type(error).__name__}: {error}"
    return ""


def _rehearsal(items: Sequence[HumanEvalItem]) -> Program:
    jobs = [[list(item.setup), list(enumerate(item.tests.tests)), item.entry] for item in items]
    return Program.script(_SOURCE, encode(jobs), **_LIMITS)


def _mistake(run: RunResult, num_items: int) -> tuple[int, str] | None:
    lines = run.stdout.split(b"\n")
    for number in range(num_items):
        record = read_record(lines[number], SHAPES) if number < len(lines) else None
        if record is None or record["number"] != number:
            why = run.cause or run.report.message or "without a word"
            return number, f"the tests do not end on a function that returns None ({why})"
        if record["kind"] == "broken":
            return number, record["message"]
    return None
