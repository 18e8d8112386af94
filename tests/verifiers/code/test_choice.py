"""Which reading of a response is run, and tests whose asserts are replaced beforehand."""

from __future__ import annotations

from typing import Any

import pytest

from sdpo_megatron.sandbox.inside.verdict.checks import Wrong, run_test, split
from sdpo_megatron.sandbox.inside.verdict.choice import Unusable, choose

HEAD = "def f(x):\n    '''Doubles.'''\n"


@pytest.mark.parametrize(
    "text",
    [
        "def f(x): return x",
        "import functools\n@functools.cache\ndef f(x):\n    return x",
        "async def f(x): ...",
        "class f: pass",
        "if True:\n    def f(x): return x",
        "try:\n    from math import sqrt as f\nexcept ImportError:\n    f = None",
        "f = lambda x: x",
        "def g(x): return x\nf = g",
        "for f in (abs,): pass",
    ],
)
def test_a_module_that_binds_the_name_is_run_as_it_stands(text: str) -> None:
    chosen = choose(["def other(): pass", text], HEAD, "f")
    assert (chosen.index, chosen.offset) == (1, 0)


@pytest.mark.parametrize(
    "text", ["def g():\n    def f(x): return x", "class A:\n    def f(self, x): return x", "f(1)"]
)
def test_a_name_bound_elsewhere_is_not_the_function(text: str) -> None:
    with pytest.raises(Unusable) as refused:
        choose([text], "", "f")
    assert refused.value.statement.kind == "missing"


@pytest.mark.parametrize("text", ["    return x * 2", "return x * 2", "  y = x\n  return y + x"])
def test_a_body_continues_the_head(text: str) -> None:
    names: dict[str, Any] = {}
    chosen = choose([text], HEAD, "f")
    exec(chosen.code, names)
    assert (names["f"](4), chosen.offset) == (8, 2)


TESTS = {
    "assert candidate(2) == [2, 'é']": ([2, "é"], [2]),
    "assert 4 == candidate(2), 'four'": (4, 5),
    "for x in (1, 2):\n    assert abs(candidate(x) - 1) < 1e-6": (1.0, 2.0),
    "assert not candidate(f\"{'a'}\")": (False, True),
    "'assert'\nassert candidate('assert') == 'assert'": ("assert", ""),
}


@pytest.mark.parametrize("source", TESTS)
def test_a_split_test_finds_the_same_as_the_test(source: str) -> None:
    right, wrong = TESTS[source]
    run_test(split(source), {"candidate": lambda x: right})
    found = []
    for either in (source, split(source)):
        with pytest.raises(Wrong) as failed:
            run_test(either, {"candidate": lambda x: wrong})
        found.append(vars(failed.value))
    assert found[0] == found[1]


@pytest.mark.parametrize("source", ["assert candidate(", "(" * 500 + ")" * 500, "\0"])
def test_what_cannot_be_split_is_left_to_the_judge(source: str) -> None:
    assert split(source) == source
