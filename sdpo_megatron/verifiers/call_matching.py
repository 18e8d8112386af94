"""When a call is the wanted one, and what to say of calls that are not.

What is said never holds what was expected: it names the call, and the argument as the response
wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdpo_megatron.verifiers.answers import shown
from sdpo_megatron.verifiers.tool_call import ToolCall

MAX_DEPTH = 32  # nesting of argument values that is compared; hostile JSON can nest a thousand deep
MAX_COMPLAINTS = 3
_KINDS: tuple[tuple[Any, str], ...] = (
    (int | float, "a number"),
    (str, "text"),
    (list | tuple, "a list"),
    (Mapping, "an object"),
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
        if argument not in accepted and not is_blank(value):
            return False
        if argument in accepted and not any(
            same_value(value, choice) for choice in accepted[argument]
        ):
            return False
    return all(
        argument in call.arguments or may_be_left_out(values)
        for argument, values in accepted.items()
    )


def is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def may_be_left_out(accepted: Sequence[Any]) -> bool:
    return any(is_blank(value) for value in accepted)


def complaint(
    wanted: Sequence[Mapping[str, Any]], calls: Sequence[ToolCall], tools: Mapping[str, Any]
) -> str:
    """What is wrong with `calls`, a line each, at most three."""
    open_calls = list(wanted)
    lines = []
    unmatched = []
    for number, call in enumerate(calls, start=1):
        target = next((target for target in open_calls if matches(target, call)), None)
        if target is None:
            unmatched.append((number, call))
        else:
            open_calls.remove(target)
    for number, call in unmatched:
        lines.append(f"Call {number}{_problem(call, wanted, open_calls, tools)}")
    if unmatched:
        return "\n".join(lines[:MAX_COMPLAINTS])
    if any(not target.get("optional", False) for target in open_calls):
        return "Each call is right, but a call that this request needs is missing."
    return "Each call is right, but their order is not."


def _problem(
    call: ToolCall,
    wanted: Sequence[Mapping[str, Any]],
    open_calls: Sequence[Mapping[str, Any]],
    tools: Mapping[str, Any],
) -> str:
    name = shown(call.name) or "of this name"
    if tools and call.name not in tools:
        return f": there is no tool {name}."
    unknown = sorted(set(call.arguments) - set(tools.get(call.name, call.arguments)))
    if unknown:
        argument = shown(unknown[0]) or "of this name"
        return f": the tool {name} has no argument {argument}."
    targets = [target for target in open_calls if target["name"] == call.name]
    if not targets:
        if any(matches(target, call) for target in wanted):
            return f" ({name}) is made more often than this request needs."
        return f": this request does not need a call of {name}, or not one more."
    differences = min((_differences(target, call) for target in targets), key=len)
    return f" ({name}): " + "; ".join(differences[:MAX_COMPLAINTS]) + "."


def _differences(target: Mapping[str, Any], call: ToolCall) -> list[str]:
    """What keeps `call` from being `target`; empty when it is."""
    accepted = target["arguments"]
    found = []
    for argument, value in call.arguments.items():
        name = shown(argument) or "of this name"
        if argument not in accepted:
            if not is_blank(value):
                found.append(f"the argument {name} is not needed")
        elif not any(same_value(value, choice) for choice in accepted[argument]):
            kinds = {_kind(choice) for choice in accepted[argument] if not is_blank(choice)}
            kind = _kind(value)
            if is_blank(value):
                found.append(f"the argument {name} is empty")
            elif kinds and kind not in kinds:
                expected = " or ".join(sorted(kinds))
                found.append(f"the value of {name} is {kind}, it must be {expected}")
            else:
                found.append(f"the value of {name} is wrong")
    missing = [
        argument
        for argument, values in accepted.items()
        if argument not in call.arguments and not may_be_left_out(values)
    ]
    if missing:
        number = "1 more argument is" if len(missing) == 1 else f"{len(missing)} more arguments are"
        found.append(f"{number} needed")
    return found


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "null")
