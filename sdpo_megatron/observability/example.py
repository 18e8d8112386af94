"""One attempt shown to people, made harmless: a model's output may hold anything."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sdpo_megatron.nouns import Group

__all__ = ["Example", "choose_example", "for_terminal"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """An attempt with its verdict.

    Attributes:
        question_id, index: Which attempt.
        text: What the model wrote; may hold anything.
        success: Whether it was judged a success.
        feedback: What the verifier said; may quote the attempt and its output, so anything too.
    """

    question_id: str
    index: int
    text: str
    success: bool
    feedback: str = ""


def choose_example(
    num_attempts: Sequence[int], step: int, read: Callable[[int], Group]
) -> Example | None:
    """The attempt to show for a step: questions take turns, and so do successes and failures.

    Deterministic, so that a resumed run shows what an uninterrupted one does.

    Args:
        num_attempts: Of each group.
        read: The group at that place; called for the chosen one only.

    Returns:
        None without any attempt.
    """
    answered = [place for place, num in enumerate(num_attempts) if num]
    if not answered:
        return None
    group = read(answered[step % len(answered)])
    want_success = (step // len(answered)) % 2 == 1
    pairs = list(zip(group.attempts, group.verdicts, strict=True))
    wanted = [pair for pair in pairs if pair[1].success == want_success] or pairs
    attempt, verdict = wanted[0]
    return Example(
        question_id=group.question.id,
        index=attempt.index,
        text=attempt.text,
        success=verdict.success,
        feedback=verdict.feedback,
    )


def for_terminal(text: str) -> str:
    """`text` without anything that a terminal or a reader could take for more than letters.

    Line feeds stay and tabs become four spaces. Control characters (escape sequences begin with
    one), bidirectional overrides and other invisible format characters, surrogates and private-use
    characters become ``\\x1b``, ``\\u202e`` and the like.
    """
    text = text.replace("\r\n", "\n").expandtabs(4)
    return "".join(c if c == "\n" or _is_plain(c) else _escaped(c) for c in text)


def _is_plain(char: str) -> bool:
    # C*: controls, formats, surrogates, private use, unassigned. Zl, Zp: line separators.
    category = unicodedata.category(char)
    return not category.startswith("C") and category not in ("Zl", "Zp")


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
