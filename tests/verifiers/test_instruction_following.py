"""Each instruction is checked by program, offline, also those that needed NLTK's download."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from sdpo_megatron.verifiers.base import BadItem
from sdpo_megatron.verifiers.instruction_following import InstructionFollowing, checkers

VERIFY = InstructionFollowing().verify


def item(**instructions: dict[str, Any]) -> dict[str, Any]:
    ids = [name.replace("__", ":") for name in instructions]
    return {"prompt": "p", "instruction_id_list": ids, "kwargs": list(instructions.values())}


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "keywords:existence": ({"keywords": ["arch", "river"]}, "An arch, a river.", "An arch."),
    "keywords:frequency": (
        {"keyword": "go", "frequency": 2, "relation": "at least"},
        "go go",
        "go",
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["sea"]}, "the lake", "the sea"),
    "keywords:letter_frequency": (
        {"letter": "z", "let_frequency": 2, "let_relation": "at least"},
        "jazz",
        "zoo",
    ),
    "language:response_language": (
        {"language": "de"},
        "Das ist ein ganz gewöhnlicher deutscher Satz.",
        "This is an entirely ordinary English sentence.",
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": "less than"},
        "Dr. Smith went home. He slept.",  # two: the full stop of Dr. ends none
        "One. Two. Three.",
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "a\n***\nb", "a"),
    "length_constraints:number_words": (
        {"num_words": 3, "relation": "at least"},
        "one two three",
        "one two",
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First.\n\nThen this.",
        "First.\n\nNow this.",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 1}, "Dear [name]", "Dear you"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Bye.\nP.S. Hi.", "Bye."),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n* b", "* a"),
    "detectable_format:constrained_response": ({}, "My answer is yes.", "Perhaps."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 1}, "a *b* c", "a b c"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "a b",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "a: 1"),
    "detectable_format:title": ({}, "<<Tides>>\nThey turn.", "Tides"),
    "combination:two_responses": ({}, "yes\n******\nno", "yes"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say hi"}, "Say hi\nhi", "hi"),
    "startend:end_checker": ({"end_phrase": "The end."}, "So. The end.", "So."),
    "startend:quotation": ({}, '"so"', "so"),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        "It was HUGE and LOUD.",
        "It was HUGE.",
    ),
    "change_case:english_capital": ({}, "THIS IS AN ENGLISH SENTENCE.", "This is one."),
    "change_case:english_lowercase": ({}, "this is an english sentence.", "This is one."),
    "punctuation:no_comma": ({}, "a and b", "a, b"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_instruction_tells_following_from_not(name: str) -> None:
    arguments, follows, does_not = CASES[name]
    one = {"prompt": "p", "instruction_id_list": [name], "kwargs": [arguments]}
    good, bad = VERIFY(one, follows), VERIFY(one, does_not)
    assert (good.success, good.reward, good.feedback) == (True, 1.0, "")
    assert (bad.success, bad.reward, bad.format_ok) == (False, 0.0, True)
    assert bad.feedback.startswith("These instructions were not followed:\n- ")


def test_every_instruction_of_the_library_has_a_case() -> None:
    assert set(CASES) == set(checkers())


def test_the_reward_is_the_share_and_the_feedback_names_what_failed() -> None:
    two = item(punctuation__no_comma={}, detectable_format__json_format={})
    verdict = VERIFY(two, "no comma here")
    assert (verdict.reward, verdict.success) == (0.5, False)
    assert verdict.details["followed"] == [True, False]
    assert "JSON format" in verdict.feedback
    assert "commas" not in verdict.feedback
    assert VERIFY(two, json.dumps({"a": 1})).success


def test_thinking_is_not_part_of_the_response() -> None:
    one = item(punctuation__no_comma={})
    assert VERIFY(one, "<think>a, b, c</think>none here").success
    assert not VERIFY(one, "<think>none").format_ok


def test_a_missing_argument_is_the_tasks_mistake_and_never_drawn_at_random() -> None:
    with pytest.raises(BadItem, match="number_words: missing arguments num_words"):
        VERIFY(item(length_constraints__number_words={"relation": "at least"}), "text")
    with pytest.raises(BadItem, match="unknown instruction 'length:words'"):
        VERIFY(item(length__words={}), "text")
    with pytest.raises(BadItem, match="2 instructions and 1 kwargs"):
        VERIFY({"instruction_id_list": ["a", "b"], "kwargs": [{}]}, "text")


def test_nulls_of_the_public_file_are_no_arguments() -> None:
    padded = {"num_words": None, "keywords": ["arch"], "relation": None}
    assert VERIFY(item(keywords__existence=padded), "an arch").success


def test_the_checkers_come_without_what_downloads_benchmarks() -> None:
    """The verifier image has none of it, and a worker starts in a third of the time."""
    code = (
        "import sys\n"
        "from sdpo_megatron.verifiers.instruction_following import checkers\n"
        "print(len(checkers()), {'datasets', 'pandas', 'pyarrow', 'torch'} & sys.modules.keys())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == f"{len(checkers())} set()\n"
