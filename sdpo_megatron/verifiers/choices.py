"""Reads which of several options an answer names: one letter, perhaps with its option's text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sdpo_megatron.verifiers.answers import boxed_answer
from sdpo_megatron.verifiers.latex import undressed

MAX_CHARS = 2000  # a letter and at most its option's text; anything longer is not an answer
_HEAD = re.compile(
    r"(?:the\s)?(?:(?:final|correct|best|right|only)\s){0,2}"
    r"(?:(?:answer|option|choice|letter)\b\s?(?:is\b|:)?\s{0,2}){0,3}"
    r"[(\[]?([A-Za-z])(?![A-Za-z'\u2019\d_])[)\]]?(\s?[.:)\]]|\s?[-\u2014\u2013,](?=\s)|)\s{0,9}",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(?:not|no|nor|neither|never|incorrect|wrong|false|except|either|maybe|perhaps|possibly|unsure"
    r"|cannot|actually|wait|instead|all of the above|none of)\b|n't\b|\?",
    re.IGNORECASE,
)
_REASON = re.compile(r"(?:because|since|as|for)\b", re.IGNORECASE)
_JOINED = r"(?:or|and|nor|not|than|but|is|are|was|option|choice|answer|both|vs)"


class AnotherOption(ValueError):
    """The letter of one option is followed by the text of another."""


def letter_of(content: str, choices: str, options: Mapping[str, str] | None = None) -> str | None:
    """The letter of `choices` that an answer names, upper case; None when it names none or several.

    Args:
        content: The answer as written.
        choices: The letters offered, upper case.
        options: Letter -> its text, if known.

    Raises:
        AnotherOption: It names a letter and then the text of another option.
    """
    content = boxed_answer(content) or content
    if len(content) > MAX_CHARS:
        return None
    text = undressed(content)
    head = _HEAD.match(text)
    if head is None or head[1].upper() not in choices:
        return None
    letter, rest = head[1].upper(), text[head.end() :]
    if not rest:
        return letter
    named = [known for known, meant in (options or {}).items() if _same(rest, meant)]
    if letter in named:
        return letter
    if named:
        raise AnotherOption(letter)
    separated = bool(head[2].strip()) or text[head.end(1) : head.end(1) + 1] in (")", "]")
    if not separated and not (head[1].isupper() and _REASON.match(rest)):
        return None
    if _DENIAL.search(rest) or _mentions(rest, choices.replace(letter, "")):
        return None
    held = [known for known, meant in (options or {}).items() if _holds(rest, meant)]
    if held and letter not in held:
        raise AnotherOption(letter)
    return letter


def _mentions(text: str, others: str) -> bool:
    """Whether one of the letters `others` stands in `text` as an option, not as a word (A, I)."""
    if not others:
        return False
    letter = f"[{others}]"
    words = "".join(other for other in others if other not in "AI")
    marked = (
        rf"\(\s?{letter}\s?\)|(?<!\w){letter}[).:](?=\s|$)|\b{_JOINED}\s+\(?{letter}(?!\w)"
        rf"|(?<!\w){letter}(?=,|\s+{_JOINED}\b|\s*$)"
    )
    if re.search(marked, text, re.IGNORECASE if not _is_article(text) else 0):
        return True
    return (
        bool(words)
        and re.search(rf"(?<![\w(=\-]){'[' + words + ']'}(?![\w(=\-])", text) is not None
    )


def _is_article(text: str) -> bool:
    return re.search(r"\b(?:and|or|is|than|but|not)\s+a\s", text) is not None


def _plain(text: str) -> str:
    return " ".join(undressed(text).split()).rstrip(".")


def _same(text: str, meant: str) -> bool:
    """Equal apart from dress, blanks and, where nothing but letters differs, capitals."""
    left, right = _plain(text), _plain(meant)
    return left == right or (left.casefold() == right.casefold() and " " in left)


def _holds(text: str, meant: str) -> bool:
    """Whether the option's text stands in `text` as whole words."""
    meant = _plain(meant)
    at = _plain(text).find(meant) if len(meant) > 1 else -1
    if at < 0:
        return False
    around = _plain(text)[at - 1 : at] + _plain(text)[at + len(meant) : at + len(meant) + 1]
    return not any(character.isalnum() or character in ".-" for character in around)
