"""Multiple choice, as in SciKnowEval and MMLU-Pro: one letter, best inside ``<answer>`` tags.

Item: ``answer`` (the letter), ``choices`` (the letters offered, optional, default ``ABCD``),
``options`` (optional, ``{letter: text}``: what each letter stands for).

The letter stands in the last ``<answer>`` (closed or not), else the last ``\\boxed{}``, else it is
the whole response (after ``</reasoning>``), else a closing sentence "The answer is (C)" names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.answers import boxed_answer, tagged_answer, without_thinking
from sdpo_megatron.verifiers.base import BadItem, graded, require, wrong_answer
from sdpo_megatron.verifiers.choices import AnotherOption, letter_of
from sdpo_megatron.verifiers.final_answer import said, without_turn_end

MAX_CLOSING_CHARS = 400  # of a closing sentence that names the letter


class MultipleChoice:
    """The last ``<answer>`` decides. ``A``, ``a``, ``(A)``, ``**A**``, ``A.``, ``Option A`` and
    ``A: text`` are the same; a second option's letter or text, or a denial, makes it no answer."""

    name = "multiple_choice"

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        """Success when the letter equals ``item["answer"]``."""
        expected, choices, options = _checked(item)
        content = _content(without_turn_end(without_thinking(response)))
        if content is None:
            return graded(
                False,
                format_ok=False,
                feedback="No answer was found. "
                "End with the letter of one option inside <answer> and </answer>.",
                error="no_answer",
            )
        try:
            letter = letter_of(content, choices, options)
        except AnotherOption:
            return graded(
                False,
                format_ok=False,
                feedback="The answer names one option's letter and another option's text.",
                error="another_option",
            )
        if letter is None:
            offered = f"{choices[0]} to {choices[-1]}" if len(choices) > 1 else choices
            return graded(
                False,
                format_ok=False,
                feedback=f"The answer does not name exactly one letter from {offered}.",
                error="not_a_choice",
            )
        if letter == expected:
            return graded(True, answer=letter)
        return wrong_answer(item, f"The answer {letter} is not correct.", expected, answer=letter)


def _checked(item: Mapping[str, Any]) -> tuple[str, str, Mapping[str, str]]:
    expected = require(item, "answer", str).strip().upper()
    choices = "".join(require({"choices": "ABCD", **item}, "choices", (str, list, tuple))).upper()
    if len(expected) != 1 or expected not in choices:
        raise BadItem(f"item key 'answer': expected one letter of {choices}, got {expected!r}")
    options = require({"options": {}, **item}, "options", Mapping)
    if not all(isinstance(text, str) and letter in choices for letter, text in options.items()):
        raise BadItem(f"item key 'options': expected a text for letters of {choices}")
    return expected, choices, options


def _content(text: str) -> str | None:
    """Where the letter must stand; None when the response says nowhere what its answer is."""
    tagged = tagged_answer(text, unclosed=True)
    if tagged is not None:
        return tagged or None
    if boxed := boxed_answer(text):
        return boxed
    text = text.rpartition("</reasoning>")[2].replace("</answer>", "").strip()
    if len(text) <= MAX_CLOSING_CHARS and "\n" not in text:
        return said(text) or text or None
    at = text.lower().rfind("answer")
    if at < 0 or len(text) - at > MAX_CLOSING_CHARS:
        return None
    start = max(text.rfind("\n", 0, at) + 1, at - MAX_CLOSING_CHARS)
    return said(text[start:])
