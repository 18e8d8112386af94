"""Compares what an attempt printed or returned with what was expected, in a process of its own that
never saw the attempt's code.

It runs as a script of the sandbox: the job comes on standard input, one record goes to standard
output. Whatever the bytes of the attempt cost is borne by this process's limits.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ..plain_data import Opaque, PlainDataError, decode
from .difference import Difference, of_outputs, of_values, same_output
from .records import Shape, Text, write_record

_TEXT = Text(4000)
SHAPES: dict[str, Shape] = {
    "same": {},
    "different": {"expected": _TEXT, "got": _TEXT, "where": Text(200)},
}


def main() -> None:
    """Reads {"kind", "expected", "got", "limit"}: "output" compares texts, "value" JSON with an
    encoded value."""
    job = decode(sys.stdin.buffer.read())
    compare = {"output": _outputs, "value": _values}[job["kind"]]
    found = compare(job["expected"], job["got"], job["limit"])
    kind = "same" if found is None else "different"
    values = {} if found is None else vars(found)
    sys.stdout.buffer.write(write_record(kind, SHAPES[kind], values))


def _outputs(expected: str, got: bytes, limit: int) -> Difference | None:
    text = got.decode("utf-8", "backslashreplace")
    if same_output(text, expected):
        return None
    return of_outputs(expected, text, limit)


def _values(expected: str, got: bytes, limit: int) -> Difference | None:
    try:
        value = as_lists(decode(got))
    except PlainDataError:
        return Difference("", "(not a value)")
    wanted = as_lists(json.loads(expected))
    if isinstance(value, Opaque):
        shown = of_values(wanted, None, limit).expected
        return Difference(shown, f"an object of type {value.type_name}")
    return None if value == wanted else of_values(wanted, value, limit)


def as_lists(value: Any) -> Any:
    """`value` with lists in place of tuples: JSON knows no others."""
    if isinstance(value, (list, tuple)):
        return [as_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return value
