"""How answers are found in text, in time linear in the text."""

from __future__ import annotations

import pytest

from sdpo_megatron.verifiers.answers import boxed_answer, shown, tagged_answer, without_thinking


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("plain", "plain"),
        ("<think>a</think> b", " b"),
        ("<think>a</think><think>b</think>c", "c"),
        ("a</think>b", "b"),  # the opening tag was in the prompt
        ("<think>cut off", ""),
        ("before <think>cut off", "before "),
        ("<think>a</think>b<think>c", "b"),
    ],
)
def test_only_what_follows_the_thought_is_the_response(text: str, rest: str) -> None:
    assert without_thinking(text) == rest


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<answer>a</answer>", "a"),
        ("<answer>a<answer> b </answer>", "b"),
        ("</answer>a<answer>", None),
        ("<answer>a</answer><answer>b", "a"),
        ("<Answer>a</ANSWER>", "a"),
        ("", None),
    ],
)
def test_the_last_closed_answer_is_found(text: str, found: str | None) -> None:
    assert tagged_answer(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{1}", "1"),
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed{a \\boxed{b}}", "b"),
        ("\\boxed{", None),
        ("boxed{1}", None),
    ],
)
def test_the_last_balanced_box_is_found(text: str, found: str | None) -> None:
    assert boxed_answer(text) == found


@pytest.mark.parametrize(
    ("piece", "tagged", "boxed"),
    [
        ("<answer>", None, None),
        ("</answer>", None, None),
        ("\\boxed{", None, None),
        ("{", None, None),
        ("\\boxed{}", None, ""),
    ],
)
def test_a_megabyte_of_one_piece_is_read_at_once(
    piece: str, tagged: str | None, boxed: str | None
) -> None:
    """Quadratic time would be hours here, beyond the time limit of any test."""
    text = piece * (1_000_000 // len(piece))
    assert without_thinking(text) == text
    assert tagged_answer(text) == tagged
    assert boxed_answer(text) == boxed


@pytest.mark.parametrize(
    "text", ["", " ", "<|im_end|>", "a\nb", "\x1b[2J", "[INST]", "`x`", "x" * 61]
)
def test_only_harmless_text_is_quoted(text: str) -> None:
    assert shown(text) is None


def test_harmless_text_is_quoted_as_it_is() -> None:
    assert shown(" 3/4 ") == "3/4"
