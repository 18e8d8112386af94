"""Feedback on code as an online judge words it: the case, what was expected, what came; never more
than may be told.

Everything that a program may have influenced is made harmless first (`verifiers.harmless`), so the
text is the same on every run and is only text to a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdpo_megatron.verifiers.harmless import harmless

LIMIT_WORDS = {
    "cpu_time": "Time limit exceeded: the program used more than {cpu_s:g} seconds of CPU time.",
    "wall_time": "Time limit exceeded: the program did not finish within {wall_s:g} seconds.",
    "memory": "Memory limit exceeded: the program used more than {memory_mib:.0f} MiB.",
    "output": "Output limit exceeded: the program printed more than {output_kib:.0f} KiB.",
    "processes": "Process limit exceeded: the program started more than {processes:.0f} processes.",
}

_SIGNALS = {
    4: "illegal instruction",
    6: "aborted",
    7: "bus error",
    8: "arithmetic error",
    11: "segmentation fault",
}


def limit_text(cause: str, limits: Mapping[str, float]) -> str:
    """The limit that was hit, in plain words."""
    return LIMIT_WORDS[cause].format(**limits)


def crash_text(signal: int | None) -> str:
    """A program that ended by itself in the middle of a test."""
    if signal is None:
        return "The program ended itself before it returned an answer."
    return f"The program crashed ({_SIGNALS.get(signal, f'signal {signal}')})."


def error_text(error: Mapping[str, Any], code: str = "") -> str:
    """An exception with the attempt's own line.

    `code` is the attempt's source when its line is to be quoted.
    """
    kind = harmless(str(error.get("type", "Exception")), 80)
    message = harmless(str(error.get("message", "")), 300)
    line = error.get("line", 0)
    where = f" (line {line} of your code)" if isinstance(line, int) and 0 < line < 1_000_000 else ""
    text = f"{kind}: {message}{where}" if message else f"{kind}{where}"
    lines = code.splitlines()
    if where and isinstance(line, int) and line <= len(lines):
        text += f"\n    {harmless(lines[line - 1].strip(), 200)}"
    return text


def case_text(title: str, facts: Mapping[str, str]) -> str:
    """A failed case: a title and labelled values, one a line.

    A value of several lines starts on a line of its own.
    """
    lines = [title]
    for label, value in facts.items():
        value = harmless(value)
        lines.append(f"{label}:\n{value}" if "\n" in value else f"{label}: {value}")
    return "\n".join(lines)


HIDDEN_TEXT = "All public tests pass, but a hidden test fails."
