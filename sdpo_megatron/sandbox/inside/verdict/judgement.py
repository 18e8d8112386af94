"""The judge's report: written by the confined judge, read by the host as strictly as if it were
hostile.

A line is the run's nonce, a blank, and one record. The lines come in a fixed order: "broken", or
"set_up" and then one result a test in the order of the job, and "done" when nothing more is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .records import Number, Shape, Text, read_record, write_record

_TEST, _SHOWN = Number(1_000_000), Text(2000)
_FAILURE: Shape = {
    "test": _TEST,
    "call": _SHOWN,
    "expected": _SHOWN,
    "condition": Text(1000),
    "got": _SHOWN,
    "where": Text(200),
    "problem": Text(200),
    "type": Text(80),
    "message": Text(2000),
    "line": Number(1_000_000),
}
FAILURES = ("wrong", "raised", "exit", "unusable", "died", "garbage")
SHAPES: dict[str, Shape] = {
    "broken": {"message": Text(1000)},
    "set_up": {},
    "answered": {"test": _TEST},
    "passed": {"test": _TEST},
    "done": {},
    **dict.fromkeys(FAILURES, _FAILURE),
}
MAX_REPORT_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """How one test ended.

    Attributes:
        test: Its index.
        kind: "passed" or one of FAILURES.
        call: The call that failed, expected, condition, got, problem: as texts, "" where there is
            none or where it is not to be told.
        where: The part of a long value that `expected` and `got` show.
        type: Of the exception that the attempt raised, with message and line.
    """

    __test__ = False  # the name is not pytest's

    test: int
    kind: str
    call: str = ""
    expected: str = ""
    condition: str = ""
    got: str = ""
    where: str = ""
    problem: str = ""
    type: str = ""
    message: str = ""
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge said.

    Attributes:
        broken: What is wrong with the tests; nothing of the attempt was run then.
        is_set_up: The tests were ready: all that came later is the attempt's doing.
        results: In the order of the job; fewer than its tests when the judging ended early.
        answering: The attempt had answered a call of the test that has no result.
        is_done: The judge came to its own end.
    """

    broken: str = ""
    is_set_up: bool = False
    results: tuple[TestResult, ...] = ()
    answering: bool = False
    is_done: bool = False

    def all_passed(self, num_tests: int) -> bool:
        """Every test has passed, and the judge said so to the end."""
        passed = sum(result.kind == "passed" for result in self.results)
        return self.is_done and passed == len(self.results) == num_tests


def write_line(nonce: str, kind: str, values: dict[str, Any]) -> bytes:
    """One line of the report. Fields that `values` lacks are empty."""
    shape = SHAPES[kind]
    full = {name: 0 if isinstance(field, Number) else "" for name, field in shape.items()}
    return nonce.encode() + b" " + write_record(kind, shape, full | values) + b"\n"


def report_bytes(num_tests: int) -> int:
    """The size of the largest report on that many tests."""
    return MAX_REPORT_BYTES + 512 * num_tests


def read_judgement(data: bytes, nonce: str, order: Sequence[int]) -> Judgement:
    """The judgement in `data` on tests in this order; never raises.

    What comes after the first line that is malformed or out of order does not count.
    """
    start = nonce.encode() + b" "
    broken, is_set_up, answering, is_done = "", False, False, False
    results: list[TestResult] = []
    for line in bytes(data).split(b"\n")[:-1]:
        record = read_record(line[len(start) :], SHAPES) if line.startswith(start) else None
        if record is None or broken or is_done:
            is_done = False
            break
        kind = record.pop("kind")
        if is_set_up == (kind in ("set_up", "broken")):
            break
        if kind == "broken":
            broken = record["message"] or "they are broken"
        elif kind == "set_up":
            is_set_up = True
        elif kind == "done":
            is_done = True
        elif len(results) == len(order) or record["test"] != order[len(results)]:
            break
        elif kind == "answered":
            answering = True
        else:
            results.append(TestResult(kind=kind, **record))
            answering = False
    return Judgement(
        broken=broken,
        is_set_up=is_set_up,
        results=tuple(results),
        answering=answering,
        is_done=is_done,
    )
