"""Reads a response's tool calls: ReAct text, JSON, ``<tool_call>`` elements, Python call syntax."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_RESPONSE_CHARS = 200_000
MAX_PYTHON_CHARS = 20_000  # ast.parse uses the C stack: keep its input small
MAX_CALLS = 64  # beyond this a response is spraying calls, not answering
_ACTION = re.compile(r"^[ \t]*Action[ \t]*:[ \t]*(\S[^\n]*)$", re.MULTILINE)
_ACTION_INPUT = re.compile(r"\s*Action[ _]Input[ \t]*:[ \t]*")
_TOOL_CALL = re.compile(r"<tool_call>|</tool_call>")
_FENCE = re.compile(r"^```\w*[ \t]*\n|\n```[ \t]*$")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class ToolCall:
    """One call: the tool's name and its arguments by name."""

    name: str
    arguments: Mapping[str, Any]


class UnreadableCalls(ValueError):
    """The response holds no readable call; the message may be shown to a model and quotes nothing
    of the response."""


def read_calls(response: str) -> list[ToolCall]:
    """All tool calls of a response, in order.

    Raises:
        UnreadableCalls: There is none, or one is malformed. Never anything else, whatever the text.
    """
    if len(response) > MAX_RESPONSE_CHARS:
        raise UnreadableCalls("The response is too long to hold tool calls.")
    try:
        calls = list(_calls(response.strip()))
    except UnreadableCalls:
        raise
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise UnreadableCalls("The tool calls are malformed.") from error
    if not calls:
        raise UnreadableCalls("No tool call was found.")
    if len(calls) > MAX_CALLS:
        raise UnreadableCalls(f"More than {MAX_CALLS} tool calls were made.")
    return calls


def _calls(text: str) -> Iterator[ToolCall]:
    if _ACTION.search(text):
        yield from _react_calls(text)
    elif "<tool_call>" in text:
        parts = _TOOL_CALL.split(text)[1::2]
        yield from (call for part in parts for call in _json_calls(part.strip()))
    else:
        text = _FENCE.sub("", text).strip()
        # "[f(a=1)]" is Python, "[]", "[{" and '{"' are JSON.
        if text.startswith(("{", "[]")) or (text[:1] == "[" and text[1:].lstrip()[:1] == "{"):
            yield from _json_calls(text)
        else:
            yield from _python_calls(text)


def _react_calls(text: str) -> Iterator[ToolCall]:
    """``Action: name`` followed by ``Action Input: {json}``; what stands between and after the
    pairs is ignored."""
    for number, action in enumerate(_ACTION.finditer(text), start=1):
        label = _ACTION_INPUT.match(text, action.end())
        if label is None:
            raise UnreadableCalls(f"Action {number} is not followed by a line 'Action Input:'.")
        start = label.end()
        if text.startswith("```", start):
            start = text.find("\n", start) + 1 or len(text)
        try:
            arguments, _ = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            raise UnreadableCalls(f"The input of action {number} is not valid JSON.") from error
        yield ToolCall(action.group(1).strip(), _arguments(arguments, number))


def _json_calls(text: str) -> Iterator[ToolCall]:
    """One object or a list of them.

    An object is ``{"name", "arguments"}``, ``{"Action", "Action_Input"}`` or ``{tool: {args}}``.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableCalls("The tool calls are not valid JSON.") from error
    for number, entry in enumerate(data if isinstance(data, list) else [data], start=1):
        if not isinstance(entry, dict):
            raise UnreadableCalls(f"Call {number} is not a JSON object.")
        yield call_of_json(entry, number)


def call_of_json(entry: Mapping[str, Any], number: int = 1) -> ToolCall:
    """A call from any of the three JSON layouts.

    Raises:
        UnreadableCalls: It is none of them.
    """
    for name_key, arguments_key in (
        ("name", "arguments"),
        ("name", "parameters"),
        ("Action", "Action_Input"),
    ):
        if isinstance(entry.get(name_key), str) and (arguments_key in entry or len(entry) == 1):
            return ToolCall(
                entry[name_key].strip(), _arguments(entry.get(arguments_key, {}), number)
            )
    if len(entry) == 1:
        ((name, arguments),) = entry.items()
        if isinstance(arguments, dict):
            return ToolCall(name.strip(), arguments)
    raise UnreadableCalls(f"Call {number} has no name and arguments.")


def _python_calls(text: str) -> Iterator[ToolCall]:
    """``[f(a=1), g(b="x")]`` or ``f(a=1)``: keyword arguments with literal values."""
    if len(text) > MAX_PYTHON_CHARS or "(" not in text:
        raise UnreadableCalls("No tool call was found.")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableCalls("No tool call was found.") from error
    for number, node in enumerate(
        tree.elts if isinstance(tree, (ast.List, ast.Tuple)) else [tree], start=1
    ):
        if not isinstance(node, ast.Call) or node.args or any(k.arg is None for k in node.keywords):
            raise UnreadableCalls(f"Call {number} is not of the form tool(argument=value, ...).")
        try:
            arguments = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
        except (ValueError, TypeError, RecursionError, MemoryError, SyntaxError) as error:
            raise UnreadableCalls(
                f"Call {number} has an argument that is not a literal value."
            ) from error
        yield ToolCall(ast.unparse(node.func), arguments)


def _arguments(value: Any, number: int) -> Mapping[str, Any]:
    """Arguments may be an object or, as in ToolAlpaca's answers, a string that holds one."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError) as error:
            raise UnreadableCalls(f"The input of action {number} is not valid JSON.") from error
    if not isinstance(value, dict):
        raise UnreadableCalls(f"The input of action {number} is not a JSON object.")
    return value
