"""Runs one test's statements with each `assert` replaced by a check that keeps what it compared."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any


class Wrong(Exception):
    """A check failed: the value that was expected, or the condition that does not hold."""

    def __init__(
        self, *, expected: Any = None, compared: bool = False, condition: str = ""
    ) -> None:
        super().__init__()
        self.expected, self.compared, self.condition = expected, compared, condition


def split(source: str) -> str:
    """The same test with its asserts replaced already; `source` itself where it is not Python, or
    cannot be written down again."""
    try:
        return ast.unparse(parse_test(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source


def parse_test(source: str) -> ast.Module:
    """Raises SyntaxError."""
    tree: ast.Module = _AssertSplitter().visit(ast.parse(source))
    return ast.fix_missing_locations(tree)


def run_test(source: str, names: dict[str, Any]) -> None:
    """Runs a test, split or not. Raises Wrong, or whatever the test's own code raises."""
    code = compile(parse_test(source) if "assert" in source else source, "<tests>", "exec")
    exec(
        code,
        {
            "raised_by": raised_by,
            **names,
            "__check_equal": _check_equal,
            "__check": _check,
        },
    )


def raised_by(call: Callable[[], Any]) -> str:
    """For tests: the name of the exception type that the attempt raises in `call`; "" when it
    raises none.
    """
    try:
        call()
    except Exception as error:
        statement = getattr(error, "statement", None)
        if statement is None or statement.kind != "raised":
            raise
        return str(statement.type)
    return ""


def _check_equal(left: Any, right: Any, candidate_is_left: bool) -> None:
    if not left == right:
        raise Wrong(expected=right if candidate_is_left else left, compared=True)


def _check(value: Any, condition: str) -> None:
    if not value:
        raise Wrong(condition=condition)


class _AssertSplitter(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            left, right = test.left, test.comparators[0]
            for is_left, side, other in ((True, left, right), (False, right, left)):
                if _is_candidate_call(side) and not _mentions_candidate(other):
                    return _call_statement("__check_equal", left, right, ast.Constant(is_left))
        return _call_statement("__check", test, ast.Constant(ast.unparse(test)))


def _call_statement(name: str, *arguments: ast.expr) -> ast.Expr:
    return ast.Expr(ast.Call(ast.Name(name, ast.Load()), list(arguments), []))


def _is_candidate_call(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "candidate"
    )


def _mentions_candidate(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id == "candidate" for part in ast.walk(node))
