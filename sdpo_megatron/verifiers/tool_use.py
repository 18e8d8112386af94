"""Tool use: the calls made are compared with the calls wanted, by structure and not by text.

Item:
    calls: list of ``{"name": str, "arguments": {argument: [accepted values]}, "optional": bool
        (default False)}``. An argument whose accepted values contain "" or null may be left out
        (the convention of BFCL).
    ordered: Whether the order of the calls matters (default False: the same calls in any order are
        the same).
    tools: ``{tool: [argument names]}``, what was offered; used for feedback only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.answers import shown, without_thinking
from sdpo_megatron.verifiers.base import BadItem, graded, require, wrong_answer
from sdpo_megatron.verifiers.tool_calls import ToolCall, UnreadableCalls, read_calls

MAX_DEPTH = 32  # nesting of argument values that is compared; hostile JSON can nest a thousand deep
_HOW = "Write each call as 'Action: tool' and 'Action Input: {JSON object}'."


class ToolUse:
    """All wanted calls and no other: names equal, arguments equal as JSON values (``1`` equals
    ``1.0``, not ``"1"``)."""

    name = "tool_use"

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        """Success when the calls of `response` are exactly those of ``item["calls"]``."""
        wanted = _wanted(item)
        try:
            calls = read_calls(without_thinking(response))
        except UnreadableCalls as error:
            return graded(False, format_ok=False, feedback=f"{error} {_HOW}", error="unreadable")
        ordered = bool(item.get("ordered", False))
        if (_in_order if ordered else _in_any_order)(wanted, calls):
            return graded(True, num_calls=len(calls))
        said = _complaint(calls, item.get("tools") or {})
        return wrong_answer(
            item, said, _described(wanted), num_calls=len(calls), names=[c.name[:80] for c in calls]
        )


def same_value(left: Any, right: Any, depth: int = 0) -> bool:
    """JSON equality: numbers by value, booleans only with booleans, text without outer blanks."""
    if depth > MAX_DEPTH:
        return False
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left == right
    if isinstance(left, str) and isinstance(right, str):
        return left.strip() == right.strip()
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(
            same_value(a, b, depth + 1) for a, b in zip(left, right, strict=True)
        )
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(
            same_value(left[k], right[k], depth + 1) for k in left
        )
    return left is None and right is None


def matches(wanted: Mapping[str, Any], call: ToolCall) -> bool:
    """Whether `call` is the wanted one: no argument missing or surplus, each value accepted."""
    accepted = wanted["arguments"]
    if call.name != wanted["name"]:
        return False
    for argument, value in call.arguments.items():
        if argument not in accepted and not _is_blank(value):
            return False
        if argument in accepted and not any(
            same_value(value, choice) for choice in accepted[argument]
        ):
            return False
    return all(
        argument in call.arguments or _may_be_left_out(values)
        for argument, values in accepted.items()
    )


def _wanted(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = require(item, "calls", (list, tuple))
    for call in calls:
        arguments = call.get("arguments") if isinstance(call, Mapping) else None
        if not isinstance(arguments, Mapping) or not isinstance(call.get("name"), str):
            raise BadItem(
                f"item key 'calls': expected name and arguments in each call, got {call!r}"
            )
        if not all(isinstance(values, (list, tuple)) and values for values in arguments.values()):
            raise BadItem(
                f"item key 'calls': each argument of {call['name']} needs a list of accepted values"
            )
    return list(calls)


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _may_be_left_out(accepted: Sequence[Any]) -> bool:
    return any(_is_blank(value) for value in accepted)


def _in_order(wanted: list[Mapping[str, Any]], calls: list[ToolCall]) -> bool:
    """Every call is the next wanted one; optional ones may be skipped. Reachable positions, so
    linear in the product."""
    reachable = _skip_optional({0}, wanted)
    for call in calls:
        stepped = {at + 1 for at in reachable if at < len(wanted) and matches(wanted[at], call)}
        reachable = _skip_optional(stepped, wanted)
    return len(wanted) in reachable


def _skip_optional(positions: set[int], wanted: list[Mapping[str, Any]]) -> set[int]:
    reached = set(positions)
    for at in range(len(wanted)):
        if at in reached and wanted[at].get("optional", False):
            reached.add(at + 1)
    return reached


def _in_any_order(wanted: list[Mapping[str, Any]], calls: list[ToolCall]) -> bool:
    """Every call has a wanted call of its own, and every wanted call that is not optional is made.

    Augmenting paths (Kuhn): a required call is matched first, then the rest of the calls are
    placed.
    """
    if len(calls) > len(wanted):
        return False
    fits = [[w for w, target in enumerate(wanted) if matches(target, call)] for call in calls]
    owner: dict[int, int] = {}  # wanted index -> call index

    def place(call: int, tried: set[int]) -> bool:
        for target in fits[call]:
            if target not in tried:
                tried.add(target)
                if target not in owner or place(owner[target], tried):
                    owner[target] = call
                    return True
        return False

    if not all(place(call, set()) for call in range(len(calls))):
        return False
    return _required_are_reachable(wanted, fits, owner)


def _required_are_reachable(
    wanted: list[Mapping[str, Any]], fits: list[list[int]], owner: dict[int, int]
) -> bool:
    """Moves calls from optional to required targets along alternating paths until none is open."""
    takers: dict[int, list[int]] = {
        w: [c for c, f in enumerate(fits) if w in f] for w in range(len(wanted))
    }

    def claim(target: int, seen: set[int]) -> bool:
        for call in takers[target]:
            if call in seen:
                continue
            seen.add(call)
            held = next(w for w, c in owner.items() if c == call)
            if wanted[held].get("optional", False) or claim(held, seen):
                if owner.get(held) == call:
                    del owner[held]
                owner[target] = call
                return True
        return False

    required = [w for w, target in enumerate(wanted) if not target.get("optional", False)]
    return all(w in owner or claim(w, set()) for w in required)


def _complaint(calls: list[ToolCall], tools: Mapping[str, Any]) -> str:
    """What can be said without the expected calls: names and arguments that were never offered."""
    for number, call in enumerate(calls, start=1):
        name = shown(call.name) or "of this name"
        if tools and call.name not in tools:
            return f"Call {number}: there is no tool {name}."
        unknown = sorted(set(call.arguments) - set(tools.get(call.name, call.arguments)))
        if unknown and (argument := shown(unknown[0])):
            return f"Call {number}: the tool {name} has no argument {argument}."
    return "The calls are well formed, but they are not the calls that this request needs."


def _described(wanted: list[Mapping[str, Any]]) -> str:
    calls = []
    for call in wanted:
        if not call.get("optional", False):
            arguments = (f"{name}={values[0]!r}" for name, values in call["arguments"].items())
            calls.append(f"{call['name']}({', '.join(arguments)})")
    return "; ".join(calls) or "no call"
