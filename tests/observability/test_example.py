"""Nothing that a model writes reaches the terminal as anything but visible letters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo_megatron.nouns import Attempt, Group, Question, Verdict, VersionSpan
from sdpo_megatron.observability.example import Example, choose_example, for_terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text\nsecond line", "plain text\nsecond line"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;new title\x07", r"\x1b]0;new title\x07"),
        ("\x9b2J", r"\x9b2J"),  # the one-byte form of the same sequence
        ("over\rwritten", r"over\rwritten"),
        ("dos\r\nline", "dos\nline"),
        ("a\tb", "a   b"),
        ("access\u202eresu", r"access\u202eresu"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("line\u2028separator", r"line\u2028separator"),
        ("half \ud800 pair", r"half \ud800 pair"),
        ("\U000e0041", r"\U000e0041"),  # an invisible tag character
        ("naïve 漢字 🙂", "naïve 漢字 🙂"),
    ],
)
def test_for_terminal(text: str, shown: str) -> None:
    assert for_terminal(text) == shown


@given(st.text(alphabet=st.characters(), max_size=200))
def test_only_letters_marks_and_line_feeds_are_left(text: str) -> None:
    for char in for_terminal(text):
        category = unicodedata.category(char)
        assert char == "\n" or not (category.startswith("C") or category in ("Zl", "Zp")), ascii(
            char
        )


def _group(question_id: str, successes: list[bool]) -> Group:
    attempts = tuple(
        Attempt(
            question_id=question_id, index=index, prompt_ids=(1,), response_ids=(2,),
            log_probs=(-0.5,), loss_mask=(True,), versions=(VersionSpan(0, 1, 0),),
            finish_reason="stop", text=f"{question_id} text {index}",
        )
        for index in range(len(successes))
    )  # fmt: skip
    verdicts = tuple(
        Verdict(reward=float(s), success=s, format_ok=True, feedback="" if s else "wrong")
        for s in successes
    )
    question = Question(id=question_id, task="demo", messages=())
    return Group(question=question, attempts=attempts, verdicts=verdicts)


def choose(groups: list[Group], step: int) -> Example | None:
    return choose_example([len(group.attempts) for group in groups], step, groups.__getitem__)


def test_questions_take_turns_and_so_do_failures_and_successes() -> None:
    groups = [_group("a", [True, False]), _group("b", [False, True])]
    shown = [choose(groups, step) for step in range(4)]
    assert [(e.question_id, e.index, e.success) for e in shown if e] == [
        ("a", 1, False),
        ("b", 0, False),
        ("a", 0, True),
        ("b", 1, True),
    ]
    assert shown[0] is not None
    assert (shown[0].text, shown[0].feedback) == ("a text 1", "wrong")


def test_without_the_wanted_outcome_the_first_attempt_is_shown() -> None:
    example = choose([_group("a", [True, True])], 0)
    assert example is not None
    assert (example.index, example.success) == (0, True)


def test_groups_that_lost_all_attempts_are_passed_over() -> None:
    assert choose([], 3) is None
    assert choose([_group("a", [])], 3) is None
    example = choose([_group("a", []), _group("b", [False])], 1)
    assert example is not None
    assert example.question_id == "b"
