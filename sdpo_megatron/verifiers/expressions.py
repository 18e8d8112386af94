r"""The shape of an expression: what math-verify does not look at before it compares values.

It reads ``[18,18]`` as the set of 18, ``1,2,2`` as ``{1, 2}`` and ``10+9=18`` as 18. Whoever wrote
those did not write what was asked for.
"""

from __future__ import annotations

import re

_NAME = re.compile(
    r"(?:[a-zA-Z]|\\[a-zA-Z]{1,20})(?:_\{?[\w,]{1,10}\}?)?'?(?:\([\w,\\ +-]{1,40}\))?"
    r"|[A-Za-z ]{1,60}|\\(?:angle|triangle|overline|widehat)\s?\{?[A-Z]{1,4}\}?"
)
_IN = re.compile(r"([a-zA-Z])\s?\\in(?![a-zA-Z])\s?")
_BRACKETS = ("()", "[]", "(]", "[)")
_ALTERNATIVES = re.compile(r"\\pm|\\mp|\\cup|\\lor|\u00b1|\b(?:or|and)\b|;")
_RELATIONS = re.compile(
    r"<|>|\\(?:leq?|geq?|lt|gt|neq?|leqslant|geqslant|in|equiv|subset)(?![a-zA-Z])|[\u2264\u2265\u2260]"
)
_SUBSCRIPTED = re.compile(r"\d\s?_")  # a numeral in another base
_DEPTHS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


def _top_level(text: str, separator: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += _DEPTHS.get(character, 0)
        if character == separator and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def without_name(expected: str, answer: str) -> tuple[str, str] | None:
    r"""The two without a name that only one of them has: ``x = 4`` is 4, ``f(2) = 9`` is 9.

    None when the answer is a chain whose other sides are not a name: what ``10+9=18`` or
    ``18=17`` mean is not clear. Chains are compared as they are where one is expected.
    """
    wanted, given = _top_level(expected, "="), _top_level(answer, "=")
    if len(given) > 1 and len(wanted) == 1:
        return (expected, given[-1].strip()) if _is_name(given[:-1]) else None
    if len(wanted) > 1 and len(given) == 1 and _is_name(wanted[:-1]):
        return wanted[-1].strip(), answer
    if len(wanted) == len(given) == 1:
        left, right = _IN.match(expected), _IN.match(answer)
        if right and not left:
            return expected, answer[right.end() :]
        if left and not right:
            return expected[left.end() :], answer
    return expected, answer


def _is_name(sides: list[str]) -> bool:
    return len(sides) == 1 and _NAME.fullmatch(sides[0].strip()) is not None


def same_shape(expected: str, answer: str) -> bool:
    """Whether both are one value, or as many values in the same brackets.

    A set and a bare list are the same (``{1,2}`` and ``1, 2``: the roots of an equation); a pair,
    an interval and a set are not.
    """
    return _shape(expected) == _shape(answer)


def _shape(text: str) -> tuple[str, int, tuple[int, ...]]:
    text = text.replace("\\{", "{[").replace("\\}", "]}").strip()  # a set, in brackets of its own
    kind = ""
    if text.startswith("{[") and text.endswith("]}") and len(_top_level(text[2:-2], "\0")) == 1:
        kind, text = "set", text[2:-2]
    elif text[:1] + text[-1:] in _BRACKETS and _wraps(text):
        kind, text = text[0] + text[-1], text[1:-1]
    values = len(_top_level(text, ","))
    if kind == "()" and values == 1:
        kind = ""  # parentheses around one value
    if kind == "" and values > 1:
        kind = "set"
    marks = (_ALTERNATIVES, _RELATIONS, _SUBSCRIPTED)
    return kind, values, tuple(len(mark.findall(text)) for mark in marks)


def _wraps(text: str) -> bool:
    """Whether the first bracket is closed by the last character."""
    depth = 0
    for at, character in enumerate(text):
        depth += _DEPTHS.get(character, 0)
        if depth == 0:
            return at == len(text) - 1
    return False
