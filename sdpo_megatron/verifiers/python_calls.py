"""Tool calls in Python syntax: ``[f(a=1), g(b="x")]`` or one a line, as BFCL asks for them.

Parsed, never evaluated. An argument may bear a name that Python reserves (``from``), and a value
may be JSON's ``true``, ``false`` or ``null``.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterator
from typing import Any

from sdpo_megatron.verifiers.tool_call import ToolCall, UnreadableCalls

MAX_CHARS = 20_000  # ast.parse uses the C stack: keep its input small
_ESCAPE = "reserved_name_"
_WORD = re.compile(r"[A-Za-z_]\w{0,100}")
_JSON_NAMES = {"true": True, "false": False, "null": None}


def python_calls(text: str) -> Iterator[ToolCall]:
    """The calls of `text`, which holds nothing else.

    Raises:
        UnreadableCalls: It is not Python, or holds anything but calls with named literal arguments.
    """
    if len(text) > MAX_CHARS or "(" not in text:
        raise UnreadableCalls("No tool call was found.")
    try:
        body = ast.parse(_escaped(text)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableCalls("No tool call was found.") from error
    for number, node in enumerate(_nodes(body), start=1):
        named = isinstance(node, ast.Call) and not node.args and all(k.arg for k in node.keywords)
        if not isinstance(node, ast.Call) or not named:
            raise UnreadableCalls(f"Call {number} is not of the form tool(argument=value, ...).")
        arguments: dict[str, Any] = {}
        for position, argument in enumerate(node.keywords, start=1):
            try:
                value = ast.literal_eval(_JsonNames().visit(argument.value))
            except (ValueError, TypeError, RecursionError, MemoryError, SyntaxError) as error:
                raise UnreadableCalls(
                    f"Call {number}: the value of argument {position} is not a literal."
                ) from error
            arguments[str(argument.arg).removeprefix(_ESCAPE)] = value
        yield ToolCall(ast.unparse(node.func).replace(_ESCAPE, ""), arguments)


def _nodes(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for statement in body:
        value = statement.value if isinstance(statement, ast.Expr) else statement
        yield from value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]


class _JsonNames(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in _JSON_NAMES:
            return ast.copy_location(ast.Constant(_JSON_NAMES[node.id]), node)
        return node


def _escaped(text: str) -> str:
    """`text` with reserved words renamed where they name an argument or a tool, outside strings."""
    made, at, quote = [], 0, ""
    while at < len(text):
        if quote:
            step = 2 if text[at] == "\\" else 1
            if text.startswith(quote, at):
                step, quote = len(quote), ""
        elif text[at] in "\"'":
            quote = text[at] * 3 if text.startswith(text[at] * 3, at) else text[at]
            step = len(quote)
        elif word := _WORD.match(text, at):
            step = len(word[0])
            after = text[word.end() : word.end() + 8].lstrip(" \t")
            names = after.startswith("(") or (after[:1] == "=" and after[:2] != "==")
            if names and keyword.iskeyword(word[0]):
                made.append(_ESCAPE)
        else:
            step = 1
        made.append(text[at : at + step])
        at += step
    return "".join(made)
