"""Splitting tests and drawing the public half."""

from __future__ import annotations

import pytest

from sdpo_megatron.verifiers.code.asserts import public_split, split_asserts
from tests.verifiers.code.items import humaneval

_SOURCE = """
METADATA = {'author': 'x'}
import math

def helper(x):
    return x

def check(candidate):
    rows = [1, 2]
    assert True, "nothing"
    assert candidate(rows) == 3, "message"
    first = candidate([4])
    assert first == 4
    for x in rows:
        assert candidate([x]) == x
"""


def test_statements_become_setup_and_tests() -> None:
    split = split_asserts(_SOURCE)
    assert split.setup == (
        "METADATA = {'author': 'x'}",
        "import math",
        "def helper(x):\n    return x",
        "rows = [1, 2]",
    )
    assert split.tests == (
        "assert candidate(rows) == 3, 'message'",
        "first = candidate([4])\nassert first == 4",
        "first = candidate([4])\nfor x in rows:\n    assert candidate([x]) == x",
    )


def test_every_humaneval_test_splits() -> None:
    counts = {name: len(split_asserts(p["test"]).tests) for name, p in humaneval().items()}
    assert len(counts) == 164
    assert sum(counts.values()) == 1133
    assert (counts["HumanEval/0"], counts["HumanEval/32"], counts["HumanEval/53"]) == (7, 1, 6)


@pytest.mark.parametrize(
    "source", ["x = 1", "def check(f):\n    assert f()", "def check(candidate):\n    pass"]
)
def test_sources_without_tests_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match="check"):
        split_asserts(source)


def test_half_is_public_and_seeded() -> None:
    assert public_split(10, 0.5, 0, "HumanEval/0") == public_split(10, 0.5, 0, "HumanEval/0")
    assert len(public_split(10, 0.5, 0, "a")) == 5
    assert len(public_split(7, 0.5, 0, "a")) == 4
    draws = {public_split(10, 0.5, seed, "a") for seed in range(20)}
    assert len(draws) > 10
    assert public_split(10, 0.5, 0, "a") != public_split(10, 0.5, 0, "b")


def test_split_is_the_same_on_every_machine() -> None:
    assert public_split(8, 0.5, 0, "HumanEval/28") == (0, 3, 4, 7)


def test_at_least_one_of_each_side() -> None:
    assert public_split(1, 0.5, 0, "a") == (0,)
    assert len(public_split(2, 0.99, 0, "a")) == 1
    assert len(public_split(5, 0.01, 0, "a")) == 1
    assert public_split(3, 1.0, 0, "a") == (0, 1, 2)


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        public_split(0, 0.5, 0, "a")
    with pytest.raises(ValueError, match="fraction"):
        public_split(3, 0.0, 0, "a")
