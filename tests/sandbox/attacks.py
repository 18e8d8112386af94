"""How an attack is written: statements that would succeed outside, wrapped so that the test sees
which way it went.
"""

from __future__ import annotations

import textwrap
from typing import Any

from sdpo_megatron.sandbox import Program, RunResult

_TEMPLATE = """\
import sys
try:
{body}
except BaseException as error:
    print("STOPPED", type(error).__name__, getattr(error, "errno", None))
else:
    print("BREACH")
"""


def attack(body: str, stdin: bytes = b"", **limits: float) -> Program:
    """A program that prints BREACH if `body` goes through, STOPPED with the error if it raises."""
    source = _TEMPLATE.format(body=textwrap.indent(textwrap.dedent(body).strip(), "    "))
    return Program.script(source, stdin, **limits)


def assert_stopped(result: RunResult, *errors: str) -> None:
    """The attack ran, and ended in one of `errors` (names of exception classes)."""
    assert b"BREACH" not in result.stdout, result.stdout
    assert b"STOPPED" in result.stdout, (result.stdout, result.stderr, result.report, result.cause)
    if errors:
        assert result.stdout.split()[1].decode() in errors, result.stdout


def facts(result: RunResult) -> dict[str, Any]:
    """For assertion messages."""
    return {
        "cause": result.cause,
        "signal": result.signal,
        "cpu_s": result.cpu_s,
        "exit_code": result.exit_code,
        "stdout": result.stdout[-300:],
        "stderr": result.stderr[-300:],
        "report": result.report,
    }
