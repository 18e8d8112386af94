"""Attempts that try to pass without solving.

Each knows the protocol as well as we do, none gets a reward.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sdpo_megatron.sandbox import Sandbox, SandboxConfig
from sdpo_megatron.verifiers.code import CodeVerifier, CodeVerifierConfig
from tests.verifiers.code.hostile import (
    COLLIDING,
    FUNCTION_ATTACKS,
    FUNCTION_ITEM,
    STDIN_ATTACKS,
    STDIN_ITEM,
    taking_over,
)
from tests.verifiers.code.items import SUM_ITEM

HOST_CPU_S = 0.2  # of one attempt


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    with Sandbox(SandboxConfig(workers=1)) as sandbox:
        yield CodeVerifier(sandbox, CodeVerifierConfig(cpu_s=1.0, wall_s=20.0))


FORGERIES = {
    "exit code zero while loading": "import os\nos._exit(0)",
    "exit code zero in the call": "def total(xs):\n    import os\n    os._exit(0)",
    "SystemExit while loading": "raise SystemExit(0)",
    "SystemExit in the call": "def total(xs):\n    raise SystemExit(0)",
    "printing success": "def total(xs):\n    print('OK', 'passed', 1.0)\n    return 'passed'",
    "an object equal to everything": (
        "class Yes:\n"
        "    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\n"
        "    def __hash__(self): return 3\n"
        "def total(xs): return Yes()\n"
    ),
    "an int equal to everything": (
        "class Yes(int):\n"
        "    def __eq__(self, other): return True\n"
        "    __hash__ = int.__hash__\n"
        "def total(xs): return Yes(10 ** 9)\n"
    ),
    "a str equal to everything": (
        "class Yes(str):\n"
        "    def __eq__(self, other): return True\n"
        "    __hash__ = str.__hash__\n"
        "def total(xs): return Yes()\n"
    ),
    "a patched comparison in builtins": (
        "import builtins, operator\n"
        "builtins.all = builtins.any = builtins.bool = lambda *a: True\n"
        "operator.eq = lambda a, b: True\n"
        "builtins.AssertionError = KeyError\n"
        "def total(xs): return None\n"
    ),
    "a patched sys.modules": (
        "import sys\n"
        "class Fake:\n"
        "    def __getattr__(self, name): return lambda *a, **k: True\n"
        "for name in list(sys.modules):\n"
        "    if name not in ('sys', 'builtins'): sys.modules[name] = Fake()\n"
        "def total(xs): return None\n"
    ),
    "walking the frames for the expected value": (
        "import sys\n"
        "def total(xs):\n"
        "    frame, seen = sys._getframe(), []\n"
        "    while frame:\n"
        "        seen += [v for v in frame.f_locals.values() if isinstance(v, int)]\n"
        "        frame = frame.f_back\n"
        "    return seen[0] if seen else None\n"
    ),
    "searching all objects for the tests": (
        "import gc\n"
        "def total(xs):\n"
        "    for o in gc.get_objects():\n"
        "        if isinstance(o, (list, tuple)) and any('assert' in str(x)[:50] for x in o):\n"
        "            if any('candidate(' in str(x) for x in o if isinstance(x, str)): return 3\n"
        "    return None\n"
    ),
    "a forged report of the judge on every descriptor": (
        "import os, struct\n"
        "from inside.plain_data import encode\n"
        "def total(xs):\n"
        "    results = [{'test': n, 'kind': 'passed'} for n in range(4)]\n"
        "    for nonce in ('', '0' * 32):\n"
        "        payload = encode({'nonce': nonce, 'results': results})\n"
        "        for fd in range(1, 64):\n"
        "            try: os.write(fd, struct.pack('>I', len(payload)) + payload)\n"
        "            except OSError: pass\n"
        "    return 5\n"
    ),
    "a forged report without our own modules": (
        "import os\n"
        "for fd in range(64):\n"
        "    try: os.write(fd, b'\\0\\0\\0\\x01T' * 50)\n"
        "    except OSError: pass\n"
        "def total(xs): return 5\n"
    ),
    "answers written before they were asked for": (
        "import os, struct\n"
        "def value(n): return b'd\\0\\0\\0\\1s\\0\\0\\0\\5valuei\\0\\0\\0\\1' + bytes([n])\n"
        "for n in (9, 9, 9, 9): os.write(4, struct.pack('>I', len(value(n))) + value(n))\n"
        "def total(xs): return 5\n"
    ),
    "closing all channels": ("import os\ndef total(xs):\n    os.closerange(0, 64)\n    return 0\n"),
    "a frame of 4 GiB": (
        "import os\ndef total(xs):\n    os.write(4, b'\\xff\\xff\\xff\\xff')\n    return 0\n"
    ),
    "half a frame and then silence": (
        "import os, time\n"
        "def total(xs):\n"
        "    os.write(4, b'\\0\\0\\xff\\xff')\n"
        "    while True: pass\n"
    ),
    "a value nested beyond every stack": (
        "def total(xs):\n"
        "    value = []\n"
        "    for _ in range(100000): value = [value]\n"
        "    return value\n"
    ),
    "a list that contains itself": "def total(xs):\n    a = []\n    a.append(a)\n    return a",
    "an iterator that raises while it is read": (
        "class L(list):\n"
        "    def __iter__(self): raise KeyboardInterrupt\n"
        "def total(xs): return L([1])\n"
    ),
    "a test function of its own": "def check(c): pass\ndef total(xs): return None",
    "an exit handler and a thread that go on": (
        "import atexit, threading, os\n"
        "atexit.register(lambda: os.write(3, b'x'))\n"
        "threading.Thread(target=lambda: [os.write(3, b'x') for _ in range(100)]).start()\n"
        "def total(xs): return None\n"
    ),
    "pickle": (
        "class Evil:\n    def __reduce__(self): return (int, (3,))\ndef total(xs): return Evil()\n"
    ),
    "patching our own codec": (
        "import sys\n"
        "module = sys.modules['inside.plain_data']\n"
        "module.encode = lambda value: b'o\\0\\0\\0\\1x'\n"
        "sys.modules['inside.verdict.attempt'].encode = module.encode\n"
        "def total(xs): return None\n"
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery_of_a_humaneval_verdict(verifier: CodeVerifier, name: str) -> None:
    verdict = verifier.verify(SUM_ITEM, FORGERIES[name])
    assert (verdict.reward, verdict.success) == (0.0, False), verdict
    assert verdict.feedback
    assert "777" not in verdict.feedback  # of a hidden test


def test_honest_attempt_after_all_of_them(verifier: CodeVerifier) -> None:
    assert verifier.verify(SUM_ITEM, "    return sum(xs)").success


@pytest.mark.parametrize("name", FUNCTION_ATTACKS)
@pytest.mark.parametrize("item", [SUM_ITEM, FUNCTION_ITEM], ids=["humaneval", "livecodebench"])
def test_a_function_that_attacks_its_verdict(
    verifier: CodeVerifier, item: dict[str, Any], name: str
) -> None:
    _assert_as_wrong(verifier, item, FUNCTION_ATTACKS[name])


def test_taking_the_protocol_over_works(verifier: CodeVerifier) -> None:
    """The attacks above do reach the judge: an answer in due form is believed, if it is right."""
    item = {**SUM_ITEM, "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n"}
    item["public"] = (0,)
    assert verifier.verify(item, taking_over("value(call, encode(3))")).success
    verdict = verifier.verify(item, taking_over("value(call, encode(4))"))
    assert verdict.feedback.endswith("Expected: 3\nGot: 4")


@pytest.mark.parametrize("name", STDIN_ATTACKS)
def test_a_program_that_attacks_its_verdict(verifier: CodeVerifier, name: str) -> None:
    _assert_as_wrong(verifier, STDIN_ITEM, STDIN_ATTACKS[name])


def _assert_as_wrong(verifier: CodeVerifier, item: dict[str, Any], program: str) -> None:
    """A verdict, no exception; no reward, no hidden test in it; the host has hardly worked."""
    before = time.thread_time()
    verdict = verifier.verify(item, program)
    assert time.thread_time() - before < HOST_CPU_S
    assert (verdict.reward, verdict.success) == (0.0, False), verdict
    assert verdict.feedback
    assert len(verdict.feedback) <= 2100
    assert "777" not in verdict.feedback  # of a hidden test


def test_in_fraction_mode_they_get_nothing_either(verifier: CodeVerifier) -> None:
    fraction = CodeVerifier(verifier.sandbox, replace(verifier.config, reward="fraction"))
    for name in ("answer: passed", "value: 8 MiB", "value: a set of colliding hashes"):
        for item in (SUM_ITEM, FUNCTION_ITEM):
            assert fraction.verify(item, FUNCTION_ATTACKS[name]).reward == 0.0, name


@pytest.mark.slow
def test_a_judge_that_dies_of_an_answer_is_a_verdict(verifier: CodeVerifier) -> None:
    """More colliding hashes than the judge's CPU time allows: wrong, and not unavailable."""
    many = "def total(xs): return {n * (2 ** 61 - 1) for n in range(%d)}"
    frame = taking_over("value(call, D)", COLLIDING)
    for item, program in ((SUM_ITEM, frame), (FUNCTION_ITEM, many % 60_000)):
        quick = CodeVerifier(verifier.sandbox, replace(verifier.config, cpu_s=1.0))
        _assert_as_wrong(quick, item, program)


def test_sleeping_through_the_tests_ends_at_the_items_deadline(verifier: CodeVerifier) -> None:
    """Three of eight sleeps fit: a verdict, which says so."""
    config = replace(verifier.config, wall_s=5.0, item_wall_s=2.5, reward="fraction")
    tests = [{"input": "1 2\n", "output": "3\n"}] * 8
    item = {**STDIN_ITEM, "tests": tests, "public": list(range(8))}
    program = "import time\ntime.sleep(0.8)\nprint(sum(map(int, input().split())))"
    verdict = CodeVerifier(verifier.sandbox, config).verify(item, program)
    assert not verdict.success
    assert verdict.reward <= 3 / 8
    assert "Time limit exceeded" in verdict.feedback


def test_hidden_failures_look_alike(verifier: CodeVerifier) -> None:
    """Wrong, raising, hanging, dying: nothing of how a hidden test failed is told."""
    endings = ("return 5", "1 / 0", "while True: pass", "__import__('os')._exit(0)")
    texts = set()
    for ending in endings:
        body = (
            f"def total(xs):\n    if len(xs) < 3 and -5 not in xs: return sum(xs)\n    {ending}\n"
        )
        verdict = verifier.verify(SUM_ITEM, body)
        assert verdict.reward == 0.0
        assert verdict.details["failed_hidden_only"]
        texts.add(verdict.feedback)
    assert texts == {"All public tests pass, but a hidden test fails."}
