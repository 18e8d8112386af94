"""Records of known fields as lines of JSON: the only form in which words cross out of a confined
process.

What is read has exactly the fields of its kind, each of an exact type and a bounded size, or it is
no record at all. Nothing else of what was sent reaches the caller, and no bytes raise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_RECORD_BYTES = 48 << 10
_JSON = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True)
class Text:
    """A text of at most `limit` characters."""

    limit: int

    def fits(self, value: Any) -> bool:
        return type(value) is str and len(value) <= self.limit


@dataclass(frozen=True)
class Number:
    """An integer (never a bool) from 0 to `limit`."""

    limit: int

    def fits(self, value: Any) -> bool:
        return type(value) is int and 0 <= value <= self.limit


@dataclass(frozen=True)
class Names:
    """At most `limit` identifiers."""

    limit: int

    def fits(self, value: Any) -> bool:
        return (
            type(value) is list
            and len(value) <= self.limit
            and all(type(name) is str and len(name) <= 80 and name.isidentifier() for name in value)
        )


Shape = Mapping[str, Text | Number | Names]


def read_record(line: bytes, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """The record in `line`: "kind" and exactly the fields that `shapes` gives to that kind.

    None for anything else. Costs time linear in the line, at most MAX_RECORD_BYTES of it.
    """
    if len(line) > MAX_RECORD_BYTES:
        return None
    try:
        record = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):  # not UTF-8, not JSON, too many digits, too deep
        return None
    if type(record) is not dict or type(record.get("kind")) is not str:
        return None
    shape = shapes.get(record["kind"])
    if shape is None or record.keys() != {"kind", *shape}:
        return None
    return record if all(field.fits(record[name]) for name, field in shape.items()) else None


def write_record(kind: str, shape: Shape, values: Mapping[str, Any]) -> bytes:
    """One line without its end. Texts and names beyond a field's limit are cut, numbers clamped."""
    record: dict[str, Any] = {"kind": kind}
    for name, field in shape.items():
        value = values[name]
        if isinstance(field, Number):
            record[name] = min(max(int(value), 0), field.limit)
        else:
            record[name] = value[: field.limit]
    return _JSON.encode(record).encode("utf-8", "surrogatepass")
