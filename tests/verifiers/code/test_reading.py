"""Which program a response is read as, however it is written; in time linear in the response."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from sdpo_megatron.verifiers.code import reading
from sdpo_megatron.verifiers.code.reading import MAX_CHARS, readings

CODE = "def f(x):\n    return x"
OTHER = "def g(x):\n    return 0"
LONG = "a = 1\n" * 20


@pytest.mark.parametrize(
    "response",
    [
        CODE,
        f"\n\n{CODE}\n\n",
        f"```python\n{CODE}\n```",
        f"```\n{CODE}\n```",
        f"~~~\n{CODE}\n~~~",
        f"~~~ python\n{CODE}\n~~~\nDone.",
        f"````python\n{CODE}\n````",
        f"```Python3\n{CODE}\n```",
        f"```{{.python}}\n{CODE}\n```",
        f"```python\n{CODE}",  # cut off, or ended by the stop string
        f"```python\n{CODE}```",  # no line break before the mark
        f"## Solution\n\n```python\n{CODE}\n```\n",
        f"1. Write it:\n\n   ```python\n   {CODE.replace(chr(10), chr(10) + '   ')}\n   ```\n",
        f"Sure!\n```python\n{CODE}\n```\nIt prints:\n```\n1\n2\n```",
        f"```python\n{CODE}\n```\nSample:\n```json\n{{}}\n```",
        f"```json\n[1]\n```\n```python\n{CODE}\n```\n```text\nhello\n```",
        f"```python\n{OTHER}\n```\nNo, rather:\n```python\n{CODE}\n```",
        f"```\n{LONG}```\n```python\n{CODE}\n```",
        f"```python\r\n{CODE}\r\n```".replace("\n", "\r\n").replace("\r\r", "\r"),
        f"<think>```python\nraise X\n```</think>\n{CODE}",
        f"first I ...\n```python\nraise X\n```</think>\n```python\n{CODE}\n```",
        f"Here is the code:\n\n{CODE}\n\nIt returns x.",
    ],
)
def test_the_program_is_found(response: str) -> None:
    found = readings(response, entry="f")
    assert CODE in found
    assert found[0] == CODE or found[0].startswith("Here is")


@pytest.mark.parametrize(
    "response",
    [
        f"## Solution\n```python\n{LONG}```\n",
        f"# a heading\n\n```\n{LONG}```\n```output\n7\n```",
        f"```python\n{LONG}```\nOutput:\n```\n42\n```\nor\n```json\n[1]\n```",
        f"```\n42\n```\n```\n{LONG}```",  # untagged: the longest
    ],
)
def test_no_heading_and_no_sample_runs_in_the_programs_place(response: str) -> None:
    assert readings(response, entry="")[0] == LONG.strip()


def test_of_several_programs_the_last_that_reads_its_input() -> None:
    program, example = "print(input())", "print('try it')"
    text = f"```python\nx = input()\n```\n```python\n{program}\n```\n```python\n{example}\n```"
    assert readings(text, entry="")[0] == program


def test_only_a_prompt_that_opened_a_fence_makes_the_beginning_code() -> None:
    response = f"{CODE}\n```\nThen:\n```python\n{OTHER}\n```"
    assert readings(response, entry="", in_fence=True)[0] == CODE
    assert readings(response, entry="")[0] != CODE
    assert readings(f"```python\n{CODE}\n```", entry="f", in_fence=True)[0] == CODE  # opened twice


@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n",
        "I cannot solve this.",
        "The answer is a list of numbers,\nfor which I have no code.",
        "```json\n{}\n```",
        "```python\n```",
        f"<think>{CODE}",
        "## Solution\n\nSorry.",
    ],
)
@pytest.mark.parametrize("entry", ["f", ""])
def test_words_are_no_code(response: str, entry: str) -> None:
    assert readings(response, entry=entry) == ()


def test_line_one_is_the_first_that_shows() -> None:
    assert readings("Words.\n\n```py\n\n\nx = 1\n\n```", entry="") == ("x = 1",)


class _Counted:
    """A pattern that adds up how many characters it is shown."""

    def __init__(self, pattern: Any) -> None:
        self.pattern, self.characters = pattern, 0

    def match(self, text: str) -> Any:
        self.characters += len(text)
        return self.pattern.match(text)


def _work(response: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Lines of Python that reading `response` executes, and characters its patterns look at."""
    patterns = [_Counted(reading._CODE), _Counted(reading._TOP)]
    monkeypatch.setattr(reading, "_CODE", patterns[0])
    monkeypatch.setattr(reading, "_TOP", patterns[1])
    steps = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        readings(response, entry="f")
    finally:
        sys.settrace(previous)
        monkeypatch.undo()
    assert patterns[0].characters <= 3 * len(response)
    return steps + sum(pattern.characters for pattern in patterns)


@pytest.mark.parametrize(
    "unit",
    [
        "<think>",
        "</think>",
        "<think></think>",
        "```",
        "~~~\n",
        "```python\n",
        "```a\nb\n",
        "a",
        " ",
        " \n",
        "= ",
        "a.b(",
        "def f():\n",
        "if a:",
        "> ",
    ],
)
def test_work_grows_with_the_response_and_no_faster(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in ("", "```python\n", "x = (\n"):
        half, full = (start + unit * (size // len(unit)) for size in (MAX_CHARS // 2, MAX_CHARS))
        assert _work(full, monkeypatch) <= 2.2 * _work(half, monkeypatch) + 500
