"""How answers are found in text, in time linear in the text."""

from __future__ import annotations

import pytest

from sdpo_megatron.verifiers.answers import (
    boxed_answer,
    fences,
    shown,
    tagged_answer,
    without_thinking,
)


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
        ("<thinking>a</thinking>b", "b"),
        ("<THINK>a</Think>b", "b"),
        ("[THINK]a[/THINK]b", "b"),
        ("[THINK]cut off", ""),
        ("a[/THINK]b", "b"),
        ("<seed:think>a</seed:think>b", "b"),
        ("\u25c1think\u25b7a\u25c1/think\u25b7b", "b"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
            "b",
        ),
        ("<|channel|>analysis<|message|>cut off", ""),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary "
            "to=functions.f <|constrain|>json<|message|>{}",
            "{}",
        ),
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
        ("\\boxed{1} \\boxed{2", None),  # cut off while it changed its mind
        ("\\boxed{2}: I put it in \\boxed{}", "2"),
        ("\\boxed {3}", "3"),
        ("\\fbox{3}", "3"),
        ("\\boxed{\\left\\{ 1 \\right.}", "\\left\\{ 1 \\right."),
        ("\\boxed{\\boxed{3}}", "3"),
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
        ("\\boxed{}", None, None),
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
    "text", ["", " ", "<|im_end|>", "<unused0>", "a\nb", "\x1b[2J", "[INST]", "`x`", "x" * 61]
)
def test_only_harmless_text_is_quoted(text: str) -> None:
    assert shown(text) is None


def test_harmless_text_is_quoted_as_it_is() -> None:
    for text in (" 3/4 ", "[0,1)", "x<3", "|x|"):
        assert shown(text) == text.strip()


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("```python\na\n```", [("python", "a\n", 1, True)]),
        ("~~~\na\n```\n~~~\nb", [("", "a\n```\n", 1, True)]),
        ("````\n```\n````", [("", "```\n", 1, True)]),
        ("say\n  ```JSON x\n{}", [("json", "{}\n", 2, False)]),
        ("```inline``` text", []),
        ("- ```\n  a\n  ```\n```b\n```", [("", "  a\n", 1, True), ("b", "", 4, True)]),
        ("text `` ` no", []),
    ],
)
def test_fences_are_read_line_by_line(text: str, blocks: list[tuple[str, str, int, bool]]) -> None:
    assert [(f.info, f.text, f.first_line, f.closed) for f in fences(text)] == blocks
