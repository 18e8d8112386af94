"""Which reading of a response is run: the first that compiles and defines what is asked for.

Runs in the attempt's process: nothing is parsed on the host.
"""

from __future__ import annotations

import ast
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass

from .statement import Statement

FILENAME = "<attempt>"


@dataclass(frozen=True)
class Chosen:
    """Code to run, its source, the number of lines before the attempt's own first one, and its
    reading."""

    code: types.CodeType
    source: str
    offset: int
    index: int


class Unusable(Exception):
    """No reading can be run; `statement` says why."""

    def __init__(self, statement: Statement) -> None:
        super().__init__()
        self.statement = statement


def choose(readings: list[str], continues: str, entry: str) -> Chosen:
    """The first reading that compiles and, when `entry` is not "", defines it.

    A reading may be a module or, when `continues` holds a function's head, that function's body.

    Raises:
        Unusable: There is none.
    """
    syntax: Statement | None = None
    names: list[str] | None = None
    for index, text in enumerate(readings):
        for prefix, source in _variants(text, continues):
            offset = prefix.count("\n")
            try:
                code = compile(prefix + source, FILENAME, "exec", dont_inherit=True)
            except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
                # "unexpected indent" is a body that was read as a module: a later one says more
                if syntax is None or syntax.message == "unexpected indent":
                    syntax = _syntax(error, offset, index)
                continue
            if not entry or not _defined(code).isdisjoint(_targets(entry)):
                return Chosen(code, prefix + source, offset, index)
            tree = ast.parse(prefix + source, FILENAME)
            if any(_binds(tree, name) for name in _targets(entry)):
                return Chosen(code, prefix + source, offset, index)
            defined = [n.name for n in tree.body if isinstance(n, _DEFINITIONS)]
            names = names or defined
            if defined or not text[:1].isspace():
                break  # a module of its own, so not a body
    if names is None and syntax is not None:
        raise Unusable(syntax)
    raise Unusable(Statement(kind="missing", names=tuple(names or ())[:8]))


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _variants(text: str, continues: str) -> Iterator[tuple[str, str]]:
    """(prefix, source) pairs; their lines are the text's own, after the prefix."""
    dedented = textwrap.dedent(text)
    yield "", text
    if dedented != text:
        yield "", dedented
    if continues:
        prefix = continues if continues.endswith("\n") else continues + "\n"
        yield prefix, text
        yield prefix, "    " + text.lstrip(" \t")
        yield prefix, textwrap.indent(dedented, "    ")


def _targets(entry: str) -> tuple[str, ...]:
    """`f`; of "Solution.f" the class, or a function of the method's name."""
    first, _, method = entry.partition(".")
    return (first, method) if method else (first,)


def _defined(code: types.CodeType) -> set[str]:
    """Names of functions and classes at the module's level: the commonest bindings, and found
    without a syntax tree of Python objects."""
    return {inner.co_name for inner in code.co_consts if isinstance(inner, types.CodeType)}


def _binds(tree: ast.Module, name: str) -> bool:
    """Whether some statement at the module's level (also inside if, try, with) binds `name`."""
    todo: list[ast.AST] = list(tree.body)
    for node in todo:
        if isinstance(node, _DEFINITIONS):
            if node.name == name:
                return True
        elif isinstance(node, ast.Name):
            if node.id == name and isinstance(node.ctx, ast.Store):
                return True
        elif isinstance(node, ast.alias):
            if (node.asname or node.name) == name:
                return True
        elif not isinstance(node, ast.Lambda):
            todo += ast.iter_child_nodes(node)
    return False


def _syntax(error: BaseException, offset: int, index: int) -> Statement:
    line = (error.lineno or 0) - offset if isinstance(error, SyntaxError) else 0
    text = str(error.msg) if isinstance(error, SyntaxError) else str(error)
    return Statement(
        kind="syntax", type=type(error).__name__, message=text, line=line, chosen=index
    )
