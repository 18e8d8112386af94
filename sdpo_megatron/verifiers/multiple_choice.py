"""Multiple choice, as in SciKnowEval and MMLU-Pro: one letter inside ``<answer>`` tags.

Item: ``answer`` (the letter), ``choices`` (the letters offered, optional, default ``ABCD``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.answers import boxed_answer, tagged_answer, without_thinking
from sdpo_megatron.verifiers.base import BadItem, graded, require, wrong_answer

MAX_ANSWER_CHARS = 2000  # a letter and at most its option's text; anything longer is not an answer
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_WRAPPERS = re.compile(r"[\s*_`\"'$]+")
_LETTER = re.compile(
    r"^(?:option|choice|answer)?:?\(?([A-Z])(?:$|[.:)](?![A-Z](?:$|[.:),])))", re.IGNORECASE
)


class MultipleChoice:
    """The last ``<answer>`` decides. ``A``, ``a``, ``(A)``, ``**A**``, ``A.``, ``Option A`` and
    ``A: text`` are the same."""

    name = "multiple_choice"

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        """Success when the letter equals ``item["answer"]``."""
        expected = require(item, "answer", str).strip().upper()
        choices = "".join(
            require({"choices": "ABCD", **item}, "choices", (str, list, tuple))
        ).upper()
        if len(expected) != 1 or expected not in choices:
            raise BadItem(f"item key 'answer': expected one letter of {choices}, got {expected!r}")
        content = tagged_answer(without_thinking(response))
        if content is None:
            return graded(
                False,
                format_ok=False,
                feedback="No answer was found. "
                "End with the letter of one option inside <answer> and </answer>.",
                error="no_answer",
            )
        letter = letter_of(content)
        if letter is None or letter not in choices:
            offered = f"{choices[0]} to {choices[-1]}" if len(choices) > 1 else choices
            return graded(
                False,
                format_ok=False,
                feedback=f"The <answer> does not hold exactly one letter from {offered}.",
                error="not_a_choice",
            )
        if letter == expected:
            return graded(True, answer=letter)
        return wrong_answer(item, f"The answer {letter} is not correct.", expected, answer=letter)


def letter_of(content: str) -> str | None:
    """The letter an answer names, upper case; None when it names none or several."""
    content = boxed_answer(content) or content
    if len(content) > MAX_ANSWER_CHARS:
        return None
    bare = _WRAPPERS.sub("", _LATEX_TEXT.sub(r"\1", content))
    match = _LETTER.match(bare)
    return match.group(1).upper() if match else None
