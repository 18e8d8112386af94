"""Runs an item's tests against a stub, before any attempt: what is wrong with them is the item's
fault and must not be found by a right answer.

`main` runs as a script of the sandbox over many items, when a task is loaded; the judge rehearses
an item that nobody has.
"""

from __future__ import annotations

import random
import sys
from typing import Any

from ..plain_data import decode
from .checks import Wrong, run_test
from .records import Number, Shape, Text, write_record

SEED = 20260101  # some tests draw random inputs: the same ones on every run, whichever ran before
_MAX_CALLS = 10_000
SHAPES: dict[str, Shape] = {
    "item": {"number": Number(1_000_000)},
    "broken": {"number": Number(1_000_000), "message": Text(1000)},
}


class _Enough(BaseException):
    pass


class _Stub:
    """Takes any arguments and returns None."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *arguments: Any, **keywords: Any) -> None:
        self.calls += 1
        if self.calls > _MAX_CALLS:
            raise _Enough


def set_up(sources: list[str]) -> dict[str, Any]:
    """The namespace of the tests after `sources`. Raises what they raise."""
    names: dict[str, Any] = {"__name__": "tests"}
    random.seed(SEED)
    for source in sources:
        exec(compile(source, "<tests>", "exec"), names)
    return names


def rehearse(sources: list[str], tests: list[tuple[int, str]], entry: str) -> str:
    """What is wrong with an item's tests; "" when nothing is.

    A test may fail on the stub's None in any way but by a name or a module that does not exist; up
    to its first call it may not fail at all.
    """
    try:
        names = set_up(sources)
    except Exception as error:
        return f"what comes before the tests raises {_words(error)}"
    for index, source in tests:
        stub = _Stub()
        names["candidate"] = names[entry] = stub
        random.seed(SEED)
        try:
            run_test(source, names)
        except SyntaxError as error:
            return f"test {index + 1} is not Python: {_words(error)}"
        except (NameError, ImportError) as error:
            return f"test {index + 1} raises {_words(error)}"
        except _Enough:
            continue
        except (Wrong, AssertionError):
            if not stub.calls:
                return f"test {index + 1} fails before it calls the function"
        except Exception as error:
            if not stub.calls:
                return f"test {index + 1} raises {_words(error)} before it calls the function"
    return ""


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def main() -> None:
    """Reads a list of [setup, tests, entry] from standard input; a record an item goes out."""
    for number, (sources, tests, entry) in enumerate(decode(sys.stdin.buffer.read())):
        problem = rehearse(sources, tests, entry)
        kind = "broken" if problem else "item"
        values = {"number": number, "message": problem}
        record = write_record(kind, SHAPES[kind], values)
        sys.stdout.buffer.write(record + b"\n")
        sys.stdout.buffer.flush()
