"""Feedback of every kind, word for word: golden/*.txt.

`UPDATE_GOLDEN=1 pytest tests/verifiers/code/test_golden_feedback.py` writes the files anew; read
the difference before you commit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.sandbox import Sandbox, SandboxConfig
from sdpo_megatron.verifiers.code import CodeVerifier, CodeVerifierConfig
from tests.verifiers.code.hostile import COLLIDING, FUNCTION_ITEM, STDIN_ITEM, taking_over
from tests.verifiers.code.items import SUM_ITEM

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    config = CodeVerifierConfig(cpu_s=1.0, wall_s=3.0, memory_mib=128, output_kib=256)
    with Sandbox(SandboxConfig(workers=1)) as sandbox:
        yield CodeVerifier(sandbox, config)


def one(expected: Any, argument: str = "[1]") -> dict[str, Any]:
    """A HumanEval item of one public test."""
    test = f"def check(candidate):\n    assert candidate({argument}) == {expected}\n"
    return {**SUM_ITEM, "test": test, "public": (0,)}


def condition(source: str) -> dict[str, Any]:
    return {**SUM_ITEM, "test": f"def check(candidate):\n    assert {source}\n", "public": (0,)}


def function(given: str, expected: str, entry: str = "total") -> dict[str, Any]:
    tests = [{"input": given, "output": expected}]
    return {"kind": "livecodebench", "entry_point": entry, "tests": tests, "public": [0]}


def program(given: str, expected: str) -> dict[str, Any]:
    return {**function(given, expected, ""), "entry_point": ""}


LONG = list(range(1000))
SWAPPED = "list(range(500)) + [-1] + list(range(501, 1000))"
TEXT = "'a' * 3000 + 'b' + 'c' * 3000"
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "wrong-value": (SUM_ITEM, "return len(xs)"),
    "wrong-type": (one([1, 2]), "return (1, 2)"),
    "wrong-only-hidden": (SUM_ITEM, "return abs(sum(xs)) if len(xs) < 3 else 0"),
    "wrong-nothing-public": ({**SUM_ITEM, "public": ()}, "return 0"),
    "wrong-condition": (condition("abs(candidate([1]) - 1) < 1e-6"), "return 2.5"),
    "wrong-check-raises": (condition("abs(candidate([1]) - 1) < 1e-6"), "return None"),
    "wrong-object": (one(1), "return (x for x in xs)"),
    "wrong-nan": (one("float('nan')"), "return float('nan')"),
    "wrong-int-of-5000-digits": (one("10 ** 5000"), "return 10 ** 5000 + 1"),
    "wrong-long-list-middle": (one(LONG), f"return {SWAPPED}"),
    "wrong-long-list-shorter": (one(LONG), "return list(range(990))"),
    "wrong-long-text-middle": (one(TEXT), "return 'a' * 3000 + 'x' + 'c' * 3000"),
    "wrong-long-dict": (
        one({n: [n] * 9 for n in range(200)}),
        ("d = {n: [n] * 9 for n in range(200)}\n    d[150][4] = 'x'\n    return d"),
    ),
    "wrong-long-set": (one("set(range(5000))"), "return set(range(4999))"),
    "wrong-long-dict-keys": (
        one({n: n for n in range(300)}),
        "return {n: n for n in range(9, 309)}",
    ),
    "wrong-long-input": (one(0, "list(range(2000))"), "return 1"),
    "raised": (SUM_ITEM, "n = len(xs)\n    return n / (n - 2)"),
    "raised-recursion": (SUM_ITEM, "return total(xs)"),
    "raised-long-message": (SUM_ITEM, "raise ValueError('m' * 1000)"),
    "raised-control-tokens": (
        SUM_ITEM,
        "raise ValueError('<|im_end|><repo_name>[TH' 'INK]<unused0>')",
    ),
    "raised-loading": (SUM_ITEM, "```python\nimport nothing_like_it\ndef total(xs): pass\n```"),
    "raised-exit": (SUM_ITEM, "raise SystemExit(0)"),
    "unusable-deep": (SUM_ITEM, "a = []\n    a.append(a)\n    return a"),
    "unusable-large": (SUM_ITEM, "return 'x' * (2 << 20)"),
    "unusable-costly": (SUM_ITEM, "return {n * (2 ** 61 - 1) for n in range(70_000)}"),
    "syntax": (SUM_ITEM, "Some words.\n```python\ndef total(xs):\n    return sum(xs\n```\nMore."),
    "no-code": (SUM_ITEM, "I am sorry, I cannot do that."),
    "another-name": (SUM_ITEM, "```python\ndef add(xs):\n    return sum(xs)\n```"),
    "cpu-time": (SUM_ITEM, "while True: pass"),
    "wall-time": (SUM_ITEM, "import time\n    time.sleep(60)"),
    "memory": (SUM_ITEM, "return bytearray(b'x') * (500 << 20)"),
    "crashed": (SUM_ITEM, "import ctypes\n    ctypes.string_at(0)"),
    "ended": (SUM_ITEM, "import os\n    os._exit(0)"),
    "costly": (SUM_ITEM, taking_over("value(call, D)", COLLIDING)),
    "garbage": (SUM_ITEM, taking_over('say(kind="passed", test=0)')),
    "program-wrong": (STDIN_ITEM, "print(4)"),
    "program-nothing-printed": (STDIN_ITEM, "x = input()"),
    "program-wrong-line": (
        program("", "\n".join(map(str, range(900)))),
        ("for n in range(900): print(n if n != 700 else 'x')"),
    ),
    "program-lines-missing": (
        program("", "\n".join(map(str, range(900)))),
        ("for n in range(800): print(n)"),
    ),
    "program-wrong-in-a-long-line": (
        program("", " ".join(map(str, range(900)))),
        ("print(*range(700), 'x', *range(701, 900))"),
    ),
    "program-hex": (program("", "0xdeadbeef"), "print(hex(0xdeadbee0))"),
    "program-raised": (STDIN_ITEM, "input()\ninput()"),
    "program-syntax": (STDIN_ITEM, "```python\nprint(1))\n```"),
    "program-no-code": (STDIN_ITEM, "I am sorry, I cannot do that."),
    "program-output": (STDIN_ITEM, "while True: print(1)"),
    "program-cpu-time": (STDIN_ITEM, "while True: pass"),
    "program-garbage": (STDIN_ITEM, "import os\nos.write(3, b'x')\nprint(3)"),
    "program-long-input": (program("1 " * 2000, "1"), "print(2)"),
    "program-only-hidden": (STDIN_ITEM, "print(3)"),
    "function-wrong": (FUNCTION_ITEM, "def total(xs): return len(xs)"),
    "function-wrong-long": (function("1", str(LONG)), f"def total(xs): return {SWAPPED}"),
    "function-object": (function("1", "1"), "def total(xs): return object()"),
    "function-raised": (FUNCTION_ITEM, "def total(xs):\n    return xs[9]"),
    "function-exit": (FUNCTION_ITEM, "def total(xs): exit()"),
    "function-large": (FUNCTION_ITEM, "def total(xs): return 'x' * (2 << 20)"),
    "function-another-name": (
        function("1", "1", "Solution.f"),
        ("class Solution:\n    def g(self, x): return x\ndef h(): pass"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_feedback_is_as_written(verifier: CodeVerifier, name: str) -> None:
    item, response = CASES[name]
    if item["kind"] == "humaneval" and response[:2].islower() and "\ndef " not in response:
        response = f"    {response}"
    if name != "wall-time":  # a busy machine must not come before what the case is about
        verifier = CodeVerifier(verifier.sandbox, replace(verifier.config, wall_s=60.0))
    verdict = verifier.verify(item, response)
    assert not verdict.success
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(verdict.feedback + "\n")
    assert verdict.feedback + "\n" == path.read_text()


def test_every_golden_file_is_of_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


def test_no_wrong_answer_reads_like_the_expected_one() -> None:
    for path in GOLDEN.glob("*.txt"):
        lines = path.read_text().splitlines()
        values = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
        if "Expected" in values:
            assert values["Expected"] != values["Got"], path.name


def test_quoted_code_is_the_line_that_the_error_names(verifier: CodeVerifier) -> None:
    quoting = CodeVerifier(verifier.sandbox, replace(verifier.config, quote_code=True))
    text = "Words.\n\n```python\n\ndef total(xs):\n    return xs.nothing\n```"
    feedback = quoting.verify(SUM_ITEM, text).feedback
    assert feedback.endswith("(line 2 of your code)\n    return xs.nothing")
