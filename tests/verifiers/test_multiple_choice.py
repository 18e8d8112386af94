"""One letter inside <answer> tags, however it is dressed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdpo_megatron.verifiers.base import BadItem
from sdpo_megatron.verifiers.multiple_choice import MultipleChoice

# A busy machine must not fail a property.
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
VERIFY = MultipleChoice().verify
ITEM = {"answer": "B"}
DRESSES = [
    "{}",
    " {} ",
    "\n{}\n",
    "({})",
    "{}.",
    "{})",
    "**{}**",
    "`{}`",
    '"{}"',
    "${}$",
    "Option {}",
    "choice: {}",
    "Answer: {}",
    "\\boxed{{{}}}",
    "\\boxed{{\\text{{{}}}}}",
    "{}: 1.69 g/mol",
    "({}) Benzene",
]


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("letter", ["B", "b", "C", "d"])
def test_the_dress_of_the_letter_does_not_change_the_verdict(dress: str, letter: str) -> None:
    verdict = VERIFY(
        ITEM, f"<reasoning>A or C?</reasoning>\n<answer>{dress.format(letter)}</answer>"
    )
    assert verdict.format_ok
    assert verdict.success == (letter.upper() == "B")
    assert verdict.details["answer"] == letter.upper()


@pytest.mark.parametrize(
    "content",
    [
        "A or B",
        "A, B",
        "A B",
        "A: B",
        "A and not C",
        "E",
        "BB",
        "Benzene",
        "the second",
        "4",
        "?",
    ],
)
def test_what_is_not_exactly_one_letter_offered_is_no_answer(content: str) -> None:
    verdict = VERIFY(ITEM, f"<answer>{content}</answer>")
    assert (verdict.reward, verdict.success, verdict.format_ok) == (0.0, False, False)
    assert "exactly one letter from A to D" in verdict.feedback


@pytest.mark.parametrize("response", ["B", "The answer is B", "<answer>B", "B</answer>"])
def test_an_answer_of_one_letter_needs_no_closed_tags(response: str) -> None:
    assert VERIFY(ITEM, response).success


@pytest.mark.parametrize(
    "response",
    ["", "<answer></answer>", "<think>surely <answer>B</answer>", "<answer><think>B</answer>"],
)
def test_without_an_answer_nothing_is_guessed(response: str) -> None:
    verdict = VERIFY(ITEM, response)
    assert (verdict.reward, verdict.format_ok) == (0.0, False)
    assert "inside <answer> and </answer>" in verdict.feedback


def test_a_letter_with_the_text_of_another_option_is_no_answer() -> None:
    item = {"answer": "B", "options": {"A": "No", "B": "No, 2", "C": "two A", "D": "x or y"}}
    assert VERIFY(item, "<answer>B: No, 2</answer>").success
    other = VERIFY(item, "<answer>B: x or y</answer>")
    assert (other.success, other.format_ok) == (False, False)
    assert other.feedback == "The answer names one option's letter and another option's text."


def test_the_last_answer_counts_and_thinking_does_not() -> None:
    assert VERIFY(ITEM, "<answer>A</answer> no: <answer>B</answer>").success
    assert not VERIFY(ITEM, "<answer>B</answer> no: <answer>A</answer>").success
    assert VERIFY(ITEM, "<think><answer>A</answer></think><answer>B</answer>").success
    assert not VERIFY(ITEM, "<think><answer>B</answer></think>nothing").format_ok
    assert VERIFY(ITEM, "<ANSWER>B</ANSWER>").success


def test_a_wrong_letter_is_named_and_the_right_one_is_not() -> None:
    assert VERIFY(ITEM, "<answer>C</answer>").feedback == "The answer C is not correct."


@CALM
@given(st.permutations("ABCD"))
def test_reordered_options_keep_the_verdict(order: list[str]) -> None:
    """The option that was B has another letter; picking it is right, picking another is not."""
    new_letter = dict(zip(order, "ABCD", strict=True))
    item = {"answer": new_letter["B"]}
    for old, new in new_letter.items():
        assert VERIFY(item, f"<answer>{new}</answer>").success == (old == "B")


def test_ten_options_are_offered_where_the_item_says_so() -> None:
    item = {"answer": "J", "choices": "ABCDEFGHIJ"}
    assert VERIFY(item, "<answer>J</answer>").success
    assert not VERIFY(item, "<answer>K</answer>").format_ok


def test_an_item_without_a_usable_answer_is_the_tasks_mistake() -> None:
    with pytest.raises(BadItem, match="no key 'answer'"):
        VERIFY({}, "<answer>B</answer>")
    with pytest.raises(BadItem, match="one letter of ABCD, got 'E'"):
        VERIFY({"answer": "E"}, "<answer>B</answer>")
    with pytest.raises(BadItem, match=r"expected .*str.*, got int"):
        VERIFY({"answer": 2}, "<answer>B</answer>")
