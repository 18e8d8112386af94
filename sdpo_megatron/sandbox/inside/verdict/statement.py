"""What an attempt's process says of itself: a closed, typed record, for all layouts.

Every byte may be forged, so a statement is used for words only, or for the value that it carries,
which stays bytes until a confined process decodes it. On the wire: one record (see `records`), a
line break, then the encoded value, for kind "value" alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .records import MAX_RECORD_BYTES, Names, Number, Shape, Text, read_record, write_record

ANSWER_BYTES = 1 << 20  # of one value
RUN_ANSWER_BYTES = 16 << 20  # of all values of one run
HEAD_BYTES = MAX_RECORD_BYTES + 1
SHOWN_CHARS = 4000  # at most 24 KB as JSON
_LINE, _CHOSEN = Number(1_000_000), Number(1000)
_CALL = Text(32)

SHAPES: dict[str, Shape] = {
    "missing": {"names": Names(8)},
    "syntax": {"type": Text(80), "message": Text(2000), "line": _LINE, "chosen": _CHOSEN},
    "loaded": {"chosen": _CHOSEN},
    "raised": {
        "type": Text(80),
        "message": Text(2000),
        "line": _LINE,
        "chosen": _CHOSEN,
        "call": _CALL,
    },
    "exit": {"chosen": _CHOSEN, "call": _CALL},
    "unusable": {"message": Text(200), "chosen": _CHOSEN, "call": _CALL},
    "value": {"chosen": _CHOSEN, "call": _CALL},
    "shown": {"message": Text(SHOWN_CHARS), "chosen": _CHOSEN},
}


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement.

    Attributes:
        kind: "missing" (no reading of the response defines the function), "syntax" (none compiles),
            "loaded" (it runs, or ran to its end), "raised", "exit" (it called exit), "unusable" (it
            returned what cannot be sent), "value", "shown" (the text of its last expression); ""
            when nothing was said; "garbage" for everything else.
        type: Of the exception.
        message: Of the exception, or why a value is unusable, or the text that is shown.
        line: Of the code as shown to people; 0 when unknown.
        names: Functions and classes that the code does define.
        chosen: Index of the reading that is meant.
        call: The call that it answers.
        value: Encoded, and to be decoded in a confined process only.
    """

    kind: str
    type: str = ""
    message: str = ""
    line: int = 0
    names: tuple[str, ...] = ()
    chosen: int = 0
    call: str = ""
    value: bytes = b""

    def to_bytes(self) -> bytes:
        """As it is sent. Fields beyond their limits are cut."""
        values: dict[str, Any] = {**vars(self), "names": list(self.names)}
        return write_record(self.kind, SHAPES[self.kind], values) + b"\n" + self.value


NOTHING, GARBAGE = Statement(kind=""), Statement(kind="garbage")


def read_statement(data: bytes) -> Statement:
    """The statement in `data`; never raises."""
    if not data:
        return NOTHING
    end = data.find(b"\n", 0, HEAD_BYTES)
    record = read_record(data[:end], SHAPES) if end >= 0 else None
    if record is None:
        return GARBAGE
    value = bytes(data[end + 1 :])
    if value and record["kind"] != "value":
        return GARBAGE
    names = tuple(record.pop("names", ()))
    return Statement(**record, names=names, value=value)
