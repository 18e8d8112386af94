"""Two unequal values or outputs as two texts that show where they differ."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from .render import rendered

_ONE_ONLY = " elements of one only"


@dataclass(frozen=True)
class Difference:
    """Texts of what was expected and of what came.

    `where` names the place that both texts show when they show only a part; "" when they show all.
    """

    expected: str
    got: str
    where: str = ""


def of_values(expected: Any, got: Any, limit: int) -> Difference:
    """The whole of both values where that takes about `limit` characters each, else their first
    difference."""
    left, right = rendered(expected, limit), rendered(got, limit)
    if left.whole and right.whole:
        return Difference(left.text, right.text)
    path = ""
    while type(expected) is type(got):
        step = _step(expected, got)
        if step is None:
            break
        at, expected, got = step
        path += at
        if at == _ONE_ONLY:
            break
    if isinstance(expected, (str, bytes)) and type(expected) is type(got):
        at = _first(expected, got)
        where = f"{path}, position {at}" if path else f"position {at}"
        return Difference(_around(expected, at, limit), _around(got, at, limit), where)
    return Difference(rendered(expected, limit).text, rendered(got, limit).text, path.strip())


def _step(expected: Any, got: Any) -> tuple[str, Any, Any] | None:
    """One level down, to the first difference; None where there is nothing to descend into."""
    if type(expected) in (list, tuple):
        at = _first(expected, got)
        if at < min(len(expected), len(got)):
            return f"[{at}]", expected[at], got[at]
        longer = expected if len(expected) > len(got) else got
        if at == 0 or at >= len(longer):
            return None
        # one is the beginning of the other: what follows, and nothing
        return f"[{at}:]", expected[at:], got[at:]
    if type(expected) in (set, frozenset):
        missing, extra = expected - got, got - expected
        return (_ONE_ONLY, missing, extra) if len(missing) < len(expected) else None
    if type(expected) is dict:
        for key, value in expected.items():
            if key in got and value != got[key]:
                return f"[{rendered(key, 40).text}]", value, got[key]
        missing = {key: value for key, value in expected.items() if key not in got}
        extra = {key: value for key, value in got.items() if key not in expected}
        return (_ONE_ONLY, missing, extra) if len(missing) < len(expected) else None
    return None


def _first(left: Any, right: Any) -> int:
    """Index of the first difference; the shorter length when one begins with the other."""
    return next(
        (n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )


def _around(value: Any, at: int, limit: int) -> str:
    half = max(limit // 2, 10)
    start, end = max(0, at - half), min(len(value), at + half)
    before = f"...[{start} before] " if start else ""
    after = f" [{len(value) - end} after]..." if end < len(value) else ""
    return f"{before}{value[start:end]!r}{after}"


def of_outputs(expected: str, got: str, limit: int) -> Difference:
    """The same for what a program printed: by lines, without the blanks around them."""
    if not got.strip():
        return Difference(_whole(expected, limit), "(nothing was printed)")
    if len(expected) <= limit and len(got) <= limit:
        return Difference(expected, got)
    left, right = lines(expected), lines(got)
    at = next(
        (n for n, (a, b) in enumerate(zip(left, right, strict=False)) if not same_line(a, b)),
        min(len(left), len(right)),
    )
    texts = []
    for own, other in ((left, right), (right, left)):
        if at >= len(own):
            texts.append(f"(no such line: there are {len(own)} lines)")
            continue
        line = own[at]
        place = _first(line, other[at]) if at < len(other) else 0
        texts.append(_line_around(line, place, limit))
    return Difference(texts[0], texts[1], f"line {at + 1}")


def _whole(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]} ...[{len(text) - limit} characters after]..."


def _line_around(line: str, at: int, limit: int) -> str:
    half = max(limit // 2, 10)
    start, end = max(0, at - half), min(len(line), at + half)
    before = f"...[{start} characters before]... " if start else ""
    after = f" ...[{len(line) - end} characters after]..." if end < len(line) else ""
    return before + line[start:end] + after


def lines(text: str) -> list[str]:
    """Lines of an output as they are compared: no blanks around them, none around the whole."""
    return [line.strip() for line in text.strip().split("\n")]


def same_output(got: str, expected: str) -> bool:
    """Whether two outputs agree: the same lines, or lines of the same numbers."""
    left, right = lines(got), lines(expected)
    return len(left) == len(right) and all(map(same_line, left, right))


def same_line(left: str, right: str) -> bool:
    """Whether two lines are equal, or the same numbers (exactly, as decimals)."""
    return left == right or _same_numbers(left, right)


def _same_numbers(left: str, right: str) -> bool:
    try:
        return [Decimal(word) for word in left.split()] == [Decimal(word) for word in right.split()]
    except InvalidOperation:
        return False
