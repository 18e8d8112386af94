"""Values as short text, the same on every run: no addresses, sets in a fixed order, and never more
work than a fixed number of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BRACKETS: dict[type[Any], tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}
_MAX_INT_BITS = 4096
_MAX_DEPTH = 20
_MAX_NODES = 4000  # of one rendering
_MAX_SET = 1000  # elements that are put in order


@dataclass(frozen=True)
class Rendered:
    """A text, and whether it shows the whole value."""

    text: str
    whole: bool


def render(value: Any, budget: int = 400) -> str:
    """Like repr for plain data, about `budget` characters; what is left out is counted."""
    return rendered(value, budget).text


def rendered(value: Any, budget: int) -> Rendered:
    """The same, and whether anything was left out."""
    writer = _Writer()
    text = writer.write(value, budget, 0)
    return Rendered(text, writer.whole)


def render_call(
    name: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any], budget: int
) -> str:
    """A call as its author would write it, about `budget` characters."""
    named = [("", value) for value in arguments]
    named += [(f"{key}=", value) for key, value in keywords.items()]
    writer, parts, left = _Writer(), [], budget
    for start, value in named:
        parts.append(start + writer.write(value, max(left, 20), 0))
        left -= len(parts[-1]) + 2
    return f"{name}({', '.join(parts)})"


class _Writer:
    def __init__(self) -> None:
        self.nodes = _MAX_NODES
        self.whole = True

    def write(self, value: Any, budget: int, depth: int) -> str:
        self.nodes -= 1
        if self.nodes < 0:
            return self._cut("...")
        kind = type(value)
        if kind is int and value.bit_length() > _MAX_INT_BITS:
            digits = int(value.bit_length() * 0.30103) + 1
            sign = "negative " if value < 0 else ""
            return self._cut(
                f"<{sign}integer of about {digits} digits, the last ...{abs(value) % 10**12:012}>"
            )
        if kind in (str, bytes):
            return self._text(value, budget)
        if kind in (set, frozenset):
            return self._set(value, budget, depth)
        if kind in (list, tuple):
            start, end = _BRACKETS[kind]
            tail = "," if kind is tuple and len(value) == 1 else ""
            return start + self._items(value, len(value), budget, depth) + tail + end
        if kind is dict:
            return "{" + self._items(value.items(), len(value), budget, depth, pairs=True) + "}"
        return repr(value)

    def _cut(self, text: str) -> str:
        self.whole = False
        return text

    def _text(self, value: Any, budget: int) -> str:
        if len(value) <= budget:
            whole = repr(value)
            if len(whole) <= budget + 2:
                return whole
        half = max(budget // 2, 10)
        if len(value) <= 2 * half:  # short, but long when spelled out
            half = max(budget // 8, 5)
        if len(value) <= 2 * half:
            return repr(value)
        unit = "characters" if isinstance(value, str) else "bytes"
        left_out = len(value) - 2 * half
        return self._cut(f"{value[:half]!r} ...[{left_out} {unit} cut]... {value[-half:]!r}")

    def _items(self, items: Any, number: int, budget: int, depth: int, pairs: bool = False) -> str:
        if number and depth >= _MAX_DEPTH:
            return self._cut("...")
        parts: list[str] = []
        left = budget
        for item in items:
            if left <= 0 or self.nodes <= 0:
                parts.append(self._cut(f"... {number - len(parts)} more"))
                break
            if pairs:
                key = self.write(item[0], left, depth + 1)
                parts.append(f"{key}: {self.write(item[1], left, depth + 1)}")
            else:
                parts.append(self.write(item, left, depth + 1))
            left -= len(parts[-1]) + 2
        return ", ".join(parts)

    def _set(self, value: Any, budget: int, depth: int) -> str:
        start, end = _BRACKETS[type(value)]
        if not value:
            return f"{type(value).__name__}()"
        if len(value) > min(_MAX_SET, self.nodes):
            return self._cut(f"<{type(value).__name__} of {len(value)} elements>")
        if depth >= _MAX_DEPTH:
            return self._cut(start + "..." + end)
        each = max(budget // len(value), 40)
        texts = sorted((_rank(item), self.write(item, each, depth + 1)) for item in value)
        kept, left = [], budget
        for _, text in texts:
            if left <= 0:
                kept.append(self._cut(f"... {len(texts) - len(kept)} more"))
                break
            kept.append(text)
            left -= len(text) + 2
        return start + ", ".join(kept) + end


def _rank(item: Any) -> tuple[int, float]:
    """Numbers in their own order, everything else after them, in the order of its text."""
    if isinstance(item, (int, float)) and abs(item) < 1e300:
        return 0, float(item)
    return 1, 0.0


def shorten_middle(text: str, limit: int) -> str:
    """Cuts the middle out so that at most `limit` characters stay, and says how many went."""
    if len(text) <= limit:
        return text
    keep = limit
    mark = ""
    for _ in range(3):  # the mark's own length depends on the count that it holds
        mark = f" ...[{len(text) - keep} characters cut]... "
        keep = max(limit - len(mark), 20)
    head = (keep + 1) // 2
    mark = f" ...[{len(text) - keep} characters cut]... "
    return text[:head] + mark + text[len(text) - (keep - head) :]
