"""Reads a response's tool calls: ReAct text, JSON, ``<tool_call>`` elements, Python call syntax.

JSON is read strictly: a trailing comma or single quotes would fail in the tool's own parser, so the
feedback says where they stand. Nothing of a response is ever executed.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sdpo_megatron.verifiers.answers import fences
from sdpo_megatron.verifiers.python_calls import python_calls
from sdpo_megatron.verifiers.tool_call import ToolCall, UnreadableCalls

MAX_RESPONSE_CHARS = 200_000
MAX_CALLS = 64  # beyond this a response is spraying calls, not answering
_PREFIX = r"[ \t]{0,40}[*#>`-]{0,6} ?"
_AFTER = r"(?: ?\d{1,3})?[ \t*_`]{0,6}:[ \t*_]{0,6}"
_ACTION = re.compile(rf"{_PREFIX}Action{_AFTER}", re.IGNORECASE)
_ACTION_INPUT = re.compile(rf"{_PREFIX}Action[ _]Input{_AFTER}", re.IGNORECASE)
_INPUT_INSIDE = re.compile(rf"[ \t,;|*]{{0,8}}\bAction[ _]Input{_AFTER}", re.IGNORECASE)
_NEXT_STEP = re.compile(rf"{_PREFIX}(?:Action|Observation|Thought|Final Answer)\b", re.IGNORECASE)
_TOOL_CALL = re.compile(r"<tool_call>|</tool_call>")
_MARKS = ("[TOOL_CALLS]", "<|python_tag|>", "<|tool_call|>")
_PYTHON = re.compile(r"[ \t]{0,40}\[?[ \t]{0,40}[A-Za-z_][\w.]{0,100}\(")
_NAME_KEYS = ("name", "action", "tool", "tool_name", "function", "function_name", "api")
_ARGUMENT_KEYS = (
    "arguments", "parameters", "args", "action_input", "input", "tool_input", "kwargs"
)  # fmt: skip
_DECODER = json.JSONDecoder()


def read_calls(response: str) -> list[ToolCall]:
    """All tool calls of a response, in order.

    Raises:
        UnreadableCalls: There is none, or one is malformed. Never anything else, whatever the text.
    """
    if len(response) > MAX_RESPONSE_CHARS:
        raise UnreadableCalls("The response is too long to hold tool calls.")
    try:
        calls = list(itertools.islice(_calls(response.strip()), MAX_CALLS + 1))
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
    lines = text.split("\n")
    if any(_ACTION.match(line) for line in lines):
        yield from _react_calls(lines)
    elif "<tool_call>" in text:
        parts = [part.strip() for part in _TOOL_CALL.split(text)[1::2]]
        yield from itertools.chain.from_iterable(map(_bare_calls, parts))
    else:
        blocks = [fence.text.strip() for fence in fences(text)]
        for mark in _MARKS:
            text = text.replace(mark, "")
        parts = blocks or [_from_first_call(text)]
        yield from itertools.chain.from_iterable(map(_bare_calls, parts))


def _from_first_call(text: str) -> str:
    """The text from the first line that begins a call: words may introduce it."""
    lines = text.strip().split("\n")
    for number, line in enumerate(lines):
        if line.lstrip()[:1] in ("{", "[") or _PYTHON.match(line):
            return "\n".join(lines[number:]).strip()
    return ""


def _bare_calls(text: str) -> Iterator[ToolCall]:
    # "[f(a=1)]" is Python, "[]", "[{" and '{"' are JSON.
    if text.startswith(("{", "[]")) or (text[:1] == "[" and text[1:].lstrip()[:1] == "{"):
        return _json_calls(text)
    return python_calls(text)


def _react_calls(lines: list[str]) -> Iterator[ToolCall]:
    """``Action: name`` followed by ``Action Input: {json}`` on the same or the next line; what
    stands between and after the pairs is ignored."""
    at, number = 0, 0
    while at < len(lines):
        action = _ACTION.match(lines[at])
        if action is None:
            at += 1
            continue
        number += 1
        written = lines[at][action.end() :]
        inside = _INPUT_INSIDE.search(written)
        if inside:
            name, first = written[: inside.start()], written[inside.end() :]
        else:
            name = written
            at = _skip_blank(lines, at + 1)
            label = _ACTION_INPUT.match(lines[at]) if at < len(lines) else None
            if label is None:
                raise UnreadableCalls(f"Action {number} is not followed by 'Action Input:'.")
            first = lines[at][label.end() :]
        at += 1
        end = at
        while end < len(lines) and not _NEXT_STEP.match(lines[end]):
            end += 1
        name = name.strip(" \t\r*`\"'").removesuffix("()")
        if not name:
            raise UnreadableCalls(f"Action {number} names no tool.")
        yield ToolCall(name, _react_input("\n".join([first, *lines[at:end]]), number))
        at = end


def _skip_blank(lines: list[str], at: int) -> int:
    while at < len(lines) and not lines[at].strip():
        at += 1
    return at


def _react_input(text: str, number: int) -> Mapping[str, Any]:
    text = text.strip()
    blocks = list(fences(text)) if text.startswith(("```", "~~~")) else []
    text = blocks[0].text.strip() if blocks else text.strip("`")
    if not text or text.split(None, 1)[0].rstrip(".") in ("None", "null", "N/A"):
        return {}
    try:
        arguments, _ = _DECODER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableCalls(f"The input of action {number} {_not_json(error)}.") from error
    return _arguments(arguments, f"The input of action {number}")


def _not_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is not valid JSON (from character {error.pos + 1} on)"
    return "is not valid JSON"


def _json_calls(text: str) -> Iterator[ToolCall]:
    """Objects or lists of them, one after the other."""
    number, at = 0, 0
    while at < len(text):
        try:
            data, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise UnreadableCalls(f"The text of the tool calls {_not_json(error)}.") from error
        for entry in data if isinstance(data, list) else [data]:
            number += 1
            if not isinstance(entry, dict):
                raise UnreadableCalls(f"Call {number} is not a JSON object.")
            if isinstance(entry.get("tool_calls"), list):
                for inner in entry["tool_calls"]:
                    yield call_of_json(inner, number)
                    number += 1
                continue
            yield call_of_json(entry, number)
        while at < len(text) and text[at] in " \t\r\n,;":
            at += 1


def call_of_json(entry: Any, number: int = 1) -> ToolCall:
    """A call from any JSON layout: ``{"name", "arguments"}`` and its relatives, OpenAI's
    ``{"function": {...}}``, ToolAlpaca's ``{"Action", "Action_Input"}``, BFCL's ``{tool: {args}}``.

    Raises:
        UnreadableCalls: It is none of them.
    """
    if not isinstance(entry, Mapping):
        raise UnreadableCalls(f"Call {number} is not a JSON object.")
    if isinstance(entry.get("function"), Mapping):
        return call_of_json(entry["function"], number)
    known = {str(key).lower().replace(" ", "_"): value for key, value in entry.items()}
    for name_key in _NAME_KEYS:
        if isinstance(known.get(name_key), str):
            given = [key for key in _ARGUMENT_KEYS if key in known]
            if given or len(known) == 1:
                arguments = known[given[0]] if given else {}
                name = str(known[name_key]).strip()
                return ToolCall(name, _arguments(arguments, f"The arguments of call {number}"))
    if len(entry) == 1:
        ((name, arguments),) = entry.items()
        if isinstance(arguments, Mapping):
            return ToolCall(str(name).strip(), arguments)
    raise UnreadableCalls(f"Call {number} has no name and arguments.")


def _arguments(value: Any, what: str) -> Mapping[str, Any]:
    """Arguments may be an object or, as in ToolAlpaca's answers, a string that holds one."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError) as error:
            raise UnreadableCalls(f"{what} {_not_json(error)}.") from error
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UnreadableCalls(f"{what} is not a JSON object.")
    return value
