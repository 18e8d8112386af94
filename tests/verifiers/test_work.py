"""The work of a text verifier is bounded by the length of the response, whatever the response is.

Two things are looked at, none of them time: each regular expression can only take a bounded number
of steps from any place where it is tried, and twice the text takes at most about twice the steps of
Python.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import sdpo_megatron.verifiers as package
from sdpo_megatron.verifiers.base import load_verifier
from tests.verifiers.test_feedback_texts import CALLS, CHOICE

MODULES = [name for _, name, is_folder in pkgutil.iter_modules(package.__path__) if not is_folder]
PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "\\boxed{",
    "\\boxed{}",
    "```",
    "```\n",
    "#### ",
    "answer ",
    "The answer is ",
    "Action: f\n",
    "Action Input: ",
    "Action: f Action Input: {}\n",
    "<tool_call>",
    '{"a":',
    "f(a=1)\n",
    '"\\"',
    "( ",
    "\n",
    " ",
    "x",
    "[",
]


def patterns() -> Iterator[tuple[str, str]]:
    for name in MODULES:
        module = importlib.import_module(f"{package.__name__}.{name}")
        for attribute, value in vars(module).items():
            if isinstance(value, re.Pattern):
                yield f"{name}.{attribute}", value.pattern


@pytest.mark.parametrize(("name", "pattern"), list(patterns()))
def test_no_pattern_repeats_without_a_bound(name: str, pattern: str) -> None:
    quantifiers = re.sub(r"\\.|\[(?:\\.|[^\]\\])+\]", "", pattern)
    assert not re.search(r"[*+](?![+])|\{\d*,\}", quantifiers), f"{name}: {pattern}"


def lines_run(work: Callable[[], Any]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace if "sdpo_megatron" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    ("verifier", "item"),
    [("mathematics", {"answer": "7"}), ("multiple_choice", CHOICE), ("tool_use", CALLS)],
)
def test_twice_the_text_takes_twice_the_steps(
    verifier: str, item: dict[str, Any], piece: str
) -> None:
    verify = load_verifier(verifier).verify
    one, two = (
        lines_run(lambda size=size: verify(item, piece * size))
        for size in (1000, 2000)  # type: ignore[misc]
    )
    assert two <= 2.2 * one + 200
