"""What programs of online judges need beside the standard library and small limits: a right one of
each class passes, a wrong one fails with the true reason.

The classes are those in which our verdicts and the benchmark's public runner differed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sdpo_megatron.sandbox import Sandbox, SandboxConfig
from sdpo_megatron.verifiers.code import CodeVerifier
from tests.sandbox import packages


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    with Sandbox(SandboxConfig(workers=1)) as sandbox:
        yield CodeVerifier(sandbox)


def item(given: str, expected: str, entry: str = "") -> dict[str, Any]:
    tests = [{"input": given, "output": expected}]
    return {"kind": "livecodebench", "entry_point": entry, "tests": tests, "public": [0]}


NUMBERS = "\n".join(map(str, range(300_000)))  # 2 MB
CHAIN = "def f(n): return n and 1 + f(n - 1)\nprint(f({}))"
CASES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "more output than 1 MiB, where that is expected": (
        item("", NUMBERS),
        "print(*range(300_000), sep='\\n')",
        "print(*range(299_999), 0, sep='\\n')",
        "First difference: line 300000\nExpected: 299999\nGot: 0",
    ),
    "more output than expected": (
        item("", "1"),
        "print(1)",
        "while True: print(1)",
        "Output limit exceeded: the program printed more than 1024 KiB.",
    ),
    "deep recursion": (
        item("", "40000"),
        CHAIN.format(40_000),
        CHAIN.format(60_000),
        "RecursionError: maximum recursion depth exceeded",
    ),
    "deep recursion through a cache": (
        item("", "20000"),
        f"@cache\n{CHAIN.format(20_000)}",
        f"@cache\n{CHAIN.format(20_001)}",
        "Expected: 20000\nGot: 20001",
    ),
    "numpy": (
        item("3", "5"),
        "import numpy as np\nprint(int((np.arange(int(input())) ** 2).sum()))",
        "import numpy as np\nprint(int(np.arange(int(input())).sum()))",
        "Expected: 5\nGot: 3",
    ),
    "sortedcontainers": (
        item("3 1 2", "1"),
        "from sortedcontainers import SortedList\nprint(SortedList(input().split())[0])",
        "from sortedcontainers import SortedList\nprint(SortedList(input().split())[9])",
        "IndexError: list index out of range (line 2 of your code)",
    ),
    "hundreds of MiB": (
        item("", "x"),
        "a = bytearray(700 << 20)\nprint('x')",
        "a = bytearray(3000 << 20)\nprint('x')",
        "Memory limit exceeded: the program used more than 1024 MiB.",
    ),
    "integers of more than 4300 digits": (
        item("5000", "1" + "0" * 5000),
        "print(10 ** int(input()))",
        "print(10 ** int(input()) + 1)",
        "First difference: line 1",
    ),
    "a function where a method is asked for": (
        item("3", "4", "Solution.f"),
        "def f(x): return x + 1",
        "def g(x): return x + 1",
        "`Solution.f` is not defined: the code defines `g`.",
    ),
    "helpers beside the class": (
        item("3", "4", "Solution.f"),
        "def g(x): return x + 1\nclass Solution:\n    def f(self, x): return g(x)",
        "def g(x): return x - 1\nclass Solution:\n    def f(self, x): return g(x)",
        "Expected: 4\nGot: 2",
    ),
    "tuples for lists": (
        item("3", "[[3, 3]]", "f"),
        "def f(x): return ((x, x),)",
        "def f(x): return ((x,),)",
        "Expected: [[3, 3]]\nGot: [[3]]",
    ),
    "names that the benchmark imports": (
        item("3", "[1, 2]", "Solution.f"),
        "class Solution:\n    def f(self, x: int) -> List[int]: return sorted(Counter([2, 1]))",
        "class Solution:\n    def f(self, x: int) -> List[int]: return nothing([2, 1])",
        "NameError: name 'nothing' is not defined",
    ),
    "exit at the end": (
        item("", "1"),
        "import sys\nprint(1)\nsys.exit(1)",
        "import sys\nsys.exit(1)\nprint(1)",
        "Got: (nothing was printed)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_right_and_wrong_programs(verifier: CodeVerifier, name: str) -> None:
    if name in ("numpy", "sortedcontainers") and packages.HIDDEN:
        pytest.skip(packages.WHY)
    task, right, wrong, reason = CASES[name]
    verdict = verifier.verify(task, f"```python\n{right}\n```")
    assert verdict.success, verdict.feedback
    verdict = verifier.verify(task, f"```python\n{wrong}\n```")
    assert verdict.reward == 0.0
    assert reason in verdict.feedback
