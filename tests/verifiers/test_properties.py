"""Verifiers never raise, never reveal, and are functions: on any text, 10,000 draws each (slow)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdpo_megatron.judging.wire import verdict_from_json, verdict_to_json
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.base import REVEAL_KEY, load_verifier

# What the verifiers look for, and what has broken parsers: drawn in any order and number, with any
# text between.
FRAGMENTS = """
<answer> </answer> <ANSWER> A B (C) **D** Z option <think> </think> #### ##########
\\boxed{ } { \\frac{1}{2} \\frac \\sqrt[ \\left( \\right. $ $$ \\[ \\] ^ ^{ _ \\text{ \\% % ,
1,000 007 .5 5. -0 1e999 1/0 0/0 = < \\le \\pm \\infty \\{ \\} [0,1) i e \\pi x+1 x^2 3! \\int
\\sum_{n=1}^{9} \\begin{pmatrix} & \\\\ 9**9**9 9^{9^9} 99999999999999999999 1000000! \\cup nan inf
Action: Action:getForecast Action_Input: {"city": null "\\ud800" [ ] [[[[ {"a":{"a": "name" None
<tool_call> </tool_call> {"name":"f","arguments":{}} f(a=1) f(**a) f(1) lambda: f(a=b) ( ) ``` True
* - 1. <<title>> P.S. "quoted" [placeholder] **bold** SHOUT Dr. Ph.D. 3.14 ... ?! ****** ```json
""".split()  # noqa: SIM905
ODD = ("Action Input: ", "\n", " ", "\x00", "\x1b[31m", "\u2028", "\ud800")
PIECES = st.one_of(
    st.sampled_from([*FRAGMENTS, *ODD]),
    st.text(max_size=8),
    st.characters(),
)
TEXTS = st.one_of(st.lists(PIECES, max_size=24).map("".join), st.text(max_size=200))

ITEMS: dict[str, list[Mapping[str, Any]]] = {
    "multiple_choice": [{"answer": "B"}, {"answer": "J", "choices": "ABCDEFGHIJ"}],
    "mathematics": [{"answer": "41"}, {"answer": "\\frac{13}{7}"}, {"answer": "\\{17, x+1\\}"}],
    "tool_use": [
        {
            "calls": [
                {"name": "getForecast", "arguments": {"city": ["Oslo"], "days": [3, 3.5]}},
                {"name": "f", "arguments": {"a": ["", 1]}, "optional": True},
            ],
            "tools": {"getForecast": ["city", "days"], "f": ["a"]},
            "ordered": ordered,
        }
        for ordered in (False, True)
    ],
    "instruction_following": [],  # filled below
}
INSTRUCTIONS: dict[str, dict[str, Any]] = {
    "length_constraints:number_sentences": {"num_sentences": 3, "relation": "at least"},
    "length_constraints:nth_paragraph_first_word": {
        "num_paragraphs": 2,
        "nth_paragraph": 1,
        "first_word": "the",
    },
    "change_case:capital_word_frequency": {"capital_frequency": 2, "capital_relation": "less than"},
    "detectable_format:json_format": {},
    "detectable_format:title": {},
    "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 2},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "combination:repeat_prompt": {"prompt_to_repeat": "x"},
    "keywords:letter_frequency": {"letter": "e", "let_frequency": 3, "let_relation": "at least"},
}
LANGUAGES: dict[str, dict[str, Any]] = {
    "language:response_language": {"language": "de"},
    "change_case:english_lowercase": {},
}


def instructions(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"prompt": "x", "instruction_id_list": [*kwargs], "kwargs": [*kwargs.values()]}


# Language detection takes 10 ms a text: one draw in eight has it.
ITEMS["instruction_following"] += [instructions(INSTRUCTIONS)] * 7
ITEMS["instruction_following"] += [instructions({**INSTRUCTIONS, **LANGUAGES})]
SECRETS = {"mathematics": ("13", "17"), "tool_use": ("Oslo", "3.5")}  # what only the answer holds

EXHAUSTIVE = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(1200)]
DRAWS = [200, pytest.param(10_000, marks=EXHAUSTIVE)]


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("name", ITEMS)
def test_any_text_gets_a_verdict_that_is_whole_repeatable_and_keeps_the_secret(
    name: str, draws: int
) -> None:
    verifier = load_verifier(name)

    @settings(
        max_examples=draws, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(text=TEXTS, which=st.integers(min_value=0))
    def check(text: str, which: int) -> None:
        item = ITEMS[name][which % len(ITEMS[name])]
        verdict = verifier.verify(item, text)
        assert isinstance(verdict, Verdict)
        assert 0.0 <= verdict.reward <= 1.0
        assert verdict.format_ok or not verdict.success
        assert (verdict.reward == 1.0) == verdict.success
        assert verdict.success == (verdict.feedback == "")
        assert not verdict.reveals_answer
        assert verdict_from_json(verdict_to_json(verdict)) == verdict
        assert verifier.verify(item, text) == verdict
        if not verdict.success:
            for secret in SECRETS.get(name, ()):
                assert secret not in verdict.feedback or secret in text

    check()


@pytest.mark.parametrize("name", ["multiple_choice", "mathematics", "tool_use"])
def test_the_answer_is_in_the_feedback_exactly_where_the_task_allows_it(name: str) -> None:
    item = {**ITEMS[name][0]}
    wrong = {
        "multiple_choice": "<answer>A</answer>",
        "mathematics": "\\boxed{40}",
        "tool_use": 'Action: f\nAction Input: {"a": 1}',
    }[name]
    expected = {"multiple_choice": " B.", "mathematics": " 41.", "tool_use": "city='Oslo'"}[name]
    hidden = load_verifier(name).verify(item, wrong)
    shown = load_verifier(name).verify({**item, REVEAL_KEY: True}, wrong)
    assert (hidden.reveals_answer, expected in hidden.feedback) == (False, False)
    assert (shown.reveals_answer, expected in shown.feedback) == (True, True)
    assert (hidden.success, hidden.reward) == (shown.success, shown.reward) == (False, 0.0)
