"""Calls compare by structure: layout, order of keys and calls, kinds of numbers do not matter."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdpo_megatron.verifiers.base import BadItem
from sdpo_megatron.verifiers.call_matching import matches, same_value
from sdpo_megatron.verifiers.tool_call import ToolCall, UnreadableCalls
from sdpo_megatron.verifiers.tool_calls import read_calls
from sdpo_megatron.verifiers.tool_use import ToolUse

# A busy machine must not fail a property.
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
VERIFY = ToolUse().verify
FORECAST = {
    "name": "getForecast",
    "arguments": {"city": ["Oslo"], "days": [3], "units": ["", None]},
}
HOURS = {"name": "getHours", "arguments": {}}
TOOLS = {"getForecast": ["city", "days", "units"], "getHours": []}
ITEM = {"calls": [FORECAST, HOURS], "tools": TOOLS}
RIGHT = [("getForecast", {"city": "Oslo", "days": 3}), ("getHours", {})]


def react(calls: list[tuple[str, Any]]) -> str:
    steps = (f"Action: {name}\nAction Input: {json.dumps(args)}" for name, args in calls)
    return "Thought: I should look.\n" + "\n".join(steps)


def as_json(calls: list[tuple[str, Any]]) -> str:
    return json.dumps([{"name": name, "arguments": args} for name, args in calls])


LAYOUTS = {
    "react": react,
    "react with observations": lambda calls: "\nObservation: {}\n".join(react([c]) for c in calls),
    "json": as_json,
    "json in a fence": lambda calls: f"```json\n{as_json(calls)}\n```",
    "bfcl": lambda calls: json.dumps([{name: args} for name, args in calls]),
    "toolalpaca": lambda calls: json.dumps(
        [{"Action": name, "Action_Input": json.dumps(args)} for name, args in calls]
    ),
    "tool_call": lambda calls: "\n".join(
        f"<tool_call>\n{json.dumps({'name': n, 'arguments': a})}\n</tool_call>" for n, a in calls
    ),
    "python": lambda calls: (
        "["
        + ", ".join(f"{n}({', '.join(f'{k}={v!r}' for k, v in a.items())})" for n, a in calls)
        + "]"
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_and_the_order_do_not_change_the_verdict(layout: str) -> None:
    write = LAYOUTS[layout]
    for calls in (RIGHT, RIGHT[::-1]):
        verdict = VERIFY(ITEM, write(calls))
        assert (verdict.success, verdict.format_ok, verdict.reward) == (True, True, 1.0)
    for wrong in (RIGHT[:1], [*RIGHT, RIGHT[1]], [("getForecast", {"city": "Rome", "days": 3})]):
        verdict = VERIFY(ITEM, write(wrong))
        assert (verdict.success, verdict.format_ok, verdict.reward) == (False, True, 0.0)


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ({"days": 3, "city": "Oslo"}, True),
        ({"city": " Oslo ", "days": 3.0}, True),
        ({"city": "Oslo", "days": 3, "units": ""}, True),
        ({"city": "Oslo", "days": 3, "units": None}, True),
        ({"city": "Oslo", "days": 3, "other": ""}, True),
        ({"city": "Oslo", "days": "3"}, False),
        ({"city": "Oslo", "days": True}, False),
        ({"city": "oslo", "days": 3}, False),
        ({"city": "Oslo"}, False),
        ({"city": "Oslo", "days": 3, "units": "metric"}, False),
        ({"city": "Oslo", "days": 3, "other": 1}, False),
    ],
)
def test_arguments_are_compared_as_json_values(arguments: dict[str, Any], right: bool) -> None:
    assert matches(FORECAST, ToolCall("getForecast", arguments)) == right


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=6,
)


@CALM
@given(VALUES, VALUES)
def test_equality_is_that_of_json_texts(left: Any, right: Any) -> None:
    same_text = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert same_value(left, right) == same_value(right, left) == same_text


WANTED = st.lists(
    st.builds(
        lambda name, values, optional: {
            "name": name,
            "arguments": {"x": values},
            "optional": optional,
        },
        st.sampled_from("fg"),
        st.lists(st.integers(0, 2), min_size=1, max_size=2),
        st.booleans(),
    ),
    max_size=5,
)
CALLS = st.lists(
    st.builds(lambda n, x: ToolCall(n, {"x": x}), st.sampled_from("fg"), st.integers(0, 2)),
    min_size=1,
    max_size=5,
)


@CALM
@given(WANTED, CALLS, st.booleans())
def test_matching_equals_trying_every_assignment(
    wanted: list[dict[str, Any]], calls: list[ToolCall], ordered: bool
) -> None:
    """Reference: some choice of distinct targets for all calls leaves only optional ones open."""

    def fits(targets: tuple[int, ...]) -> bool:
        open_targets = set(range(len(wanted))) - set(targets)
        return all(matches(wanted[t], c) for t, c in zip(targets, calls, strict=True)) and all(
            wanted[t]["optional"] for t in open_targets
        )

    choose = itertools.combinations if ordered else itertools.permutations
    expected = any(fits(targets) for targets in choose(range(len(wanted)), len(calls)))
    text = as_json([(call.name, call.arguments) for call in calls])
    assert VERIFY({"calls": wanted, "ordered": ordered}, text).success == expected


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        ("", "No tool call was found."),
        ("I would look it up.", "No tool call was found."),
        ("Action: getForecast", "Action 1 is not followed by 'Action Input:'."),
        (
            "Action: getForecast\nAction Input: city=Oslo",
            "The input of action 1 is not valid JSON (from character 1 on).",
        ),
        ("Action: getForecast\nAction Input: [1]", "The input of action 1 is not a JSON object."),
        (
            '[{"name": "getForecast"',
            "The text of the tool calls is not valid JSON (from",
        ),
        ("[1, 2]", "No tool call was found."),
        ("getForecast('Oslo')", "Call 1 is not of the form tool(argument=value, ...)."),
        ("getForecast(city=open('x'))", "Call 1: the value of argument 1 is not a literal."),
        ("<think>Action: getForecast\nAction Input: {}", "No tool call was found."),
    ],
)
def test_unreadable_calls_say_what_is_wrong_with_them(response: str, problem: str) -> None:
    verdict = VERIFY(ITEM, response)
    assert (verdict.success, verdict.format_ok) == (False, False)
    assert verdict.feedback.startswith(problem)


def test_feedback_names_what_was_never_offered_and_not_what_was_wanted() -> None:
    def feedback(*calls: tuple[str, Any]) -> str:
        return VERIFY(ITEM, react(list(calls))).feedback

    assert feedback(("getWeather", {})) == "Call 1: there is no tool getWeather."
    surplus = ("getForecast", {"town": "Oslo"})
    assert feedback(surplus) == "Call 1: the tool getForecast has no argument town."
    right = ("getForecast", {"city": "Oslo", "days": 3})
    missing = "Each call is right, but a call that this request needs is missing."
    assert feedback(("getHours", {})) == missing
    wrong = ("getForecast", {"city": "Rome", "days": "3"})
    assert feedback(wrong, ("getHours", {})) == (
        "Call 1 (getForecast): the value of city is wrong; "
        "the value of days is text, it must be a number."
    )
    more = "Call 3 (getHours) is made more often than this request needs."
    assert feedback(right, ("getHours", {}), ("getHours", {})) == more
    assert feedback(("<|im_end|>", {})) == "Call 1: there is no tool of this name."


def test_nothing_in_a_response_is_executed_and_depth_is_bounded() -> None:
    for text in ("__import__('os').system('x')", "f(a=" + "[" * 5000, "[" * 100_000, "f(" * 5000):
        with pytest.raises(UnreadableCalls):
            read_calls(text)
    deep = "{}"
    for _ in range(60):
        deep = json.dumps({"a": json.loads(deep)})
    item = {"calls": [{"name": "f", "arguments": {"a": [json.loads(deep)]}}]}
    assert not VERIFY(item, react([("f", {"a": json.loads(deep)})])).success


@pytest.mark.parametrize(
    "calls",
    [None, "f", [{"name": "f"}], [{"arguments": {}}], [{"name": "f", "arguments": {"a": 1}}]],
)
def test_an_item_without_usable_calls_is_the_tasks_mistake(calls: Any) -> None:
    with pytest.raises(BadItem, match="item key 'calls'"):
        VERIFY({"calls": calls}, "f(a=1)")
