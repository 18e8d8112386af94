"""Tests of code questions as data: HumanEval's `check` function split into single tests, and the
public half drawn."""

from __future__ import annotations

import ast
import hashlib
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class SplitTests:
    """A `check` function taken apart.

    `setup` runs once, in order; each of `tests` is independent source.
    """

    setup: tuple[str, ...]
    tests: tuple[str, ...]


def split_asserts(test_source: str) -> SplitTests:
    """Splits HumanEval's test source into single tests.

    A test is one top-level statement of `check` that holds an assert (a loop of asserts is one
    test). Statements before it that use the candidate belong to it; other statements, and
    everything outside `check`, are setup. Asserts of constants (`assert True, "..."`) test nothing
    and are left out.

    Raises ValueError when there is no `check(candidate)` or no test in it.
    """
    module = ast.parse(test_source)
    check = next(
        (n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None
    )
    if check is None or [a.arg for a in check.args.args] != ["candidate"]:
        raise ValueError("the test source has no function check(candidate)")
    setup = [ast.unparse(node) for node in module.body if node is not check]
    tests: list[str] = []
    pending: list[str] = []
    for statement in check.body:
        if not _holds_assert(statement):
            (pending if _uses_candidate(statement) else setup).append(ast.unparse(statement))
        elif not (isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Constant)):
            tests.append("\n".join([*pending, ast.unparse(statement)]))
    if not tests:
        raise ValueError("check(candidate) asserts nothing")
    return SplitTests(tuple(setup), tuple(tests))


def complete(prompt: str) -> str:
    """A code prompt as Python that stands alone: as it is, or with a body of `pass`.

    Raises:
        ValueError: It is Python neither way.
    """
    last = prompt.rstrip().rpartition("\n")[2]
    indent = last[: len(last) - len(last.lstrip())]
    bodies = ("", "    pass", f"{indent}    pass", f"{indent}pass", "\tpass")
    for body in bodies:
        code = f"{prompt.rstrip()}\n{body}\n" if body else prompt
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return code
    raise ValueError("is not Python, neither alone nor with a body after it")


def _holds_assert(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(statement))


def _uses_candidate(statement: ast.stmt) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id == "candidate" for node in ast.walk(statement)
    )


def public_split(num_tests: int, fraction: float, seed: int, id: str) -> tuple[int, ...]:
    """Indices of the public tests, ascending: a random `fraction` (rounded up, at least one) fixed
    by seed and id.

    At least one test stays hidden when there are two or more and `fraction` is below 1. Independent
    of the machine, of other items and of PYTHONHASHSEED.
    """
    if num_tests < 1:
        raise ValueError(f"{id}: {num_tests} tests; at least one is needed")
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"the public fraction is {fraction}; it must be in (0, 1]")
    count = min(num_tests, max(1, -int(-num_tests * fraction // 1)))
    if fraction < 1.0 and num_tests > 1:
        count = min(count, num_tests - 1)
    digest = hashlib.sha256(f"{seed}/{id}".encode()).digest()
    return tuple(
        sorted(random.Random(int.from_bytes(digest[:8], "big")).sample(range(num_tests), count))
    )
