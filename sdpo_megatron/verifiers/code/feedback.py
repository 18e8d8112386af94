"""Feedback on code as an online judge words it: the case, what was expected, what came; never more
than may be told.

Everything that a program may have influenced is made harmless first (`verifiers.harmless`), so the
text is the same on every run and is only text to a model. Values come bounded (see
`sandbox.inside.verdict.render`) and are not cut again.
"""

from __future__ import annotations

from collections.abc import Mapping

from sdpo_megatron.sandbox.inside.verdict.judgement import TestResult
from sdpo_megatron.sandbox.inside.verdict.render import shorten_middle
from sdpo_megatron.sandbox.inside.verdict.statement import Statement
from sdpo_megatron.sandbox.words import crashed_text
from sdpo_megatron.verifiers.harmless import harmless


def harmless_whole(text: str) -> str:
    """All of `text`, harmless: whoever calls has bounded it."""
    return harmless(text, max(len(text), 1))


ITEM_TIME = "Time limit exceeded: all tests together took longer than {item_wall_s:g} seconds."
GARBAGE = "The program interfered with the channel that its answers are read from."
COSTLY = "The returned value is too large or too costly to compare."


def crash_text(signal: int | None) -> str:
    """A program that ended by itself in the middle of a test."""
    if signal is None:
        return "The program ended itself before it returned an answer."
    return crashed_text(signal)


def no_code_text(entry: str, names: tuple[str, ...] = ()) -> str:
    """A response without code, or with code that defines `names` but not `entry`."""
    if names:
        others = ", ".join(f"`{harmless_whole(name)}`" for name in names)
        return f"`{entry}` is not defined: the code defines {others}."
    if entry:
        return f"No Python code was found that defines `{entry}`."
    return "No Python program was found."


def unknown_name_text(entry: str, caller: str) -> str:
    """Code that defines other names than `entry`, as the failing call of `caller` shows it.

    The wording decides how well a small model uses it: SmolLM2-135M opens its next answer with the
    right name with probability 0.8 after the call and the error, 0.3 after the names alone.
    """
    return f"{caller}\nNameError: name '{entry}' is not defined. Define {entry}."


def error_text(error: Statement | TestResult, code: str = "") -> str:
    """An exception with the attempt's own line.

    `code` is the attempt's source when its line is to be quoted.
    """
    kind = harmless_whole(error.type) or "Exception"
    message = harmless_whole(shorten_middle(error.message, 300))
    where = f" (line {error.line} of your code)" if error.line else ""
    text = f"{kind}: {message}{where}" if message else f"{kind}{where}"
    lines = code.splitlines() if error.line else []
    if lines and error.line <= len(lines):
        text += f"\n    {harmless_whole(shorten_middle(lines[error.line - 1].strip(), 200))}"
    return text


def failed_answer_text(failure: Statement | TestResult, code: str = "") -> str:
    """A call that gave no value: it raised, called exit, or returned what cannot be used."""
    if failure.kind == "raised":
        return error_text(failure, code)
    if failure.kind == "exit":
        return "The program called exit instead of returning an answer."
    why = harmless_whole(shorten_middle(failure.message, 200)) or "it is not plain data"
    return f"The returned value cannot be used: {why}"


def wrong_facts(expected: str, got: str, where: str) -> dict[str, str]:
    """Labelled values of a wrong answer; they never read the same."""
    expected, got = harmless_whole(expected), harmless_whole(got)
    if expected == got:
        got += " (it reads the same, but is not equal)"
    place = {"First difference": harmless_whole(where)} if where else {}
    return {**place, "Expected": expected, "Got": got}


def case_text(title: str, facts: Mapping[str, str]) -> str:
    """A failed case: a title and labelled values, one a line.

    A value of several lines starts on a line of its own.
    """
    lines = [title]
    for label, value in facts.items():
        value = harmless_whole(value).rstrip("\n")
        lines.append(f"{label}:\n{value}" if "\n" in value else f"{label}: {value}")
    return "\n".join(lines)


HIDDEN_TEXT = "All public tests pass, but a hidden test fails."
