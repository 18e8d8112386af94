"""Values as short text, the same on every run: no addresses, sets in a fixed order, never more work
than the budget."""

from __future__ import annotations

from typing import Any

_BRACKETS: dict[type[Any], tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}
_MAX_INT_BITS = 4096


def render(value: Any, budget: int = 600) -> str:
    """Like repr for plain data, about `budget` characters at most; `...` marks what is left out."""
    return _render(value, budget, 0)


def _render(value: Any, budget: int, depth: int) -> str:
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and value.bit_length() > _MAX_INT_BITS
    ):
        return f"<integer of about {int(value.bit_length() * 0.30103) + 1} digits>"
    if isinstance(value, (str, bytes)):
        return _render_text(value, budget)
    if type(value) in _BRACKETS:
        return _render_items(value, budget, depth)
    if isinstance(value, dict):
        if depth > 20:
            return "{...}"
        parts, left = [], budget
        for key, item in value.items():
            if left <= 0:
                parts.append("...")
                break
            parts.append(f"{_render(key, left, depth + 1)}: {_render(item, left, depth + 1)}")
            left -= len(parts[-1]) + 2
        return "{" + ", ".join(parts) + "}"
    return repr(value)


def _render_text(value: Any, budget: int) -> str:
    if len(value) <= 2 * budget:
        return shorten_middle(repr(value), budget)
    cut = len(value) - budget
    half = budget // 2
    return f"{value[:half]!r} ...[{cut} characters cut]... {value[-half:]!r}"


def _render_items(value: Any, budget: int, depth: int) -> str:
    start, end = _BRACKETS[type(value)]
    if not value and isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}()"
    if depth > 20:
        return start + "..." + end
    is_set = isinstance(value, (set, frozenset))
    if is_set and len(value) > 10_000:
        return f"<{type(value).__name__} of {len(value)} elements>"
    parts, left = [], budget
    for item in value:
        if left <= 0 and not is_set:
            parts.append("...")
            break
        parts.append(_render(item, max(left, 40), depth + 1))
        left -= len(parts[-1]) + 2
    if is_set:
        parts = [text for _, text in sorted(zip(map(_sort_key, value), parts, strict=True))]
        return shorten_middle(start + ", ".join(parts) + end, budget)
    tail = "," if isinstance(value, tuple) and len(parts) == 1 else ""
    return start + ", ".join(parts) + tail + end


def _sort_key(item: Any) -> tuple[int, float, str]:
    if isinstance(item, (int, float)) and abs(item) < 1e300:
        return 0, float(item), ""
    return 1, 0.0, _render(item, 200, 19)


def shorten_middle(text: str, limit: int) -> str:
    """Cuts the middle out so that at most `limit` characters stay, and says how many went."""
    if len(text) <= limit:
        return text
    mark = f" ...[{len(text) - limit} characters cut]... "
    keep = max(limit - len(mark), 20)
    head = (keep + 1) // 2
    return text[:head] + mark + text[len(text) - (keep - head) :]
