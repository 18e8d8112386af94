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

from collections.abc import Mapping
from typing import Any

from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.answers import without_thinking
from sdpo_megatron.verifiers.base import BadItem, graded, require, wrong_answer
from sdpo_megatron.verifiers.call_matching import complaint, matches
from sdpo_megatron.verifiers.tool_call import ToolCall, UnreadableCalls
from sdpo_megatron.verifiers.tool_calls import read_calls

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
        said = complaint(wanted, calls, item.get("tools") or {})
        return wrong_answer(
            item, said, _described(wanted), num_calls=len(calls), names=[c.name[:80] for c in calls]
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


def _described(wanted: list[Mapping[str, Any]]) -> str:
    calls = []
    for call in wanted:
        if not call.get("optional", False):
            arguments = (f"{name}={values[0]!r}" for name, values in call["arguments"].items())
            calls.append(f"{call['name']}({', '.join(arguments)})")
    return "; ".join(calls) or "no call"
