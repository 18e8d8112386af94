"""Expressions that are cheap to write and endless to evaluate: towers, huge factorials and sums.

A first, cheap guard. The second is the child process in which the judge runs every verifier, with
bounds on its time and memory.
"""

from __future__ import annotations

import re

MAX_CHARS = 400  # longer than any final answer of the usual sets; keeps the parser's work small
MAX_EXPONENT = 100_000
_COMMAND = re.compile(r"\\[a-zA-Z]{1,30}")
_BIG = re.compile(r"\d{5}")
_REPEATED = re.compile(r"\\(?:sum|prod|binom|d?t?binom|choose|int|lim)(?![a-zA-Z])|[CP]\(")


def explosive(expression: str) -> bool:
    """Whether evaluating `expression` (LaTeX or plain) might take for ever. Linear in it."""
    if len(expression) > MAX_CHARS or re.search(r"\d{100}", expression):
        return True
    text = expression.replace("**", "^").replace(",", "").replace("{}", "").replace(" ", "")
    if _REPEATED.search(text) and (_BIG.search(text) or text.count("^") > 2):
        return True
    return _factorials(text) or _powers(text)


def _factorials(text: str) -> bool:
    marks = [found.start() for found in re.finditer("!", text)]
    if not marks:
        return False
    nested = any(text[:at].rstrip(")}]")[-1:] == "!" for at in marks)
    return nested or "^" in text or re.search(r"\d{4}", text) is not None


def _powers(text: str) -> bool:
    """Numeric exponents that are powers themselves or too large, alone or one upon the other."""
    stacked = 1
    for found in re.finditer(r"\^", text):
        exponent = _exponent(text, found.end())
        after = text[found.end() + len(exponent) :].lstrip(")}")[:1]
        letters = re.search(r"[a-zA-Z]", _COMMAND.sub("", exponent))
        if letters is None and (after == "^" or "^" in exponent or "!" in exponent):
            return True
        if letters is not None:
            continue
        size = 1
        for number in re.findall(r"\d{1,100}", exponent):
            size *= max(int(number), 1)
        if size > MAX_EXPONENT:
            return True
        if text[: found.start()][-1:] in (")", "}", "]"):
            stacked *= size
            if stacked > MAX_EXPONENT:
                return True
    return False


def _exponent(text: str, start: int) -> str:
    """What stands in the exponent: a group in braces or parentheses, a number, or one symbol."""
    pairs = {"{": "}", "(": ")"}
    closing = pairs.get(text[start : start + 1])
    if closing is None:
        token = re.compile(r"-?\d{1,100}|\\[a-zA-Z]{1,30}|.").match(text, start)
        return token[0] if token else ""
    depth = 0
    for at in range(start, len(text)):
        depth += {text[start]: 1, closing: -1}.get(text[at], 0)
        if depth == 0:
            return text[start : at + 1]
    return text[start:]
