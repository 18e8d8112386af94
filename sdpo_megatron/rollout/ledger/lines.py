"""Lines of a ledger: JSON objects that end in a checksum over themselves and all lines before.

    {"event": "lease", "positions": [4], "worker": "worker-0", "crc": "5d1f0a3c"}

CRC-32 goes on from the value of the line before, so that a line which was lost, changed, moved or
taken from another ledger is found, and one number stands for all that was written.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sdpo_megatron.errors import LedgerError

Record = Mapping[str, Any]

_CRC = ', "crc": "'
_CRC_CHARS = len(_CRC) + 8 + 2  # with the checksum, the closing quote and the closing brace


@dataclass(frozen=True)
class Place:
    """How far a ledger has been written; saved with every checkpoint.

    Attributes:
        offset: Bytes.
        crc: Checksum over all of them.
    """

    offset: int = 0
    crc: int = 0


def encode(records: Iterable[Record], after: Place) -> tuple[bytes, Place]:
    """The lines of `records`, which follow `after`; and the place behind them."""
    lines, crc = [], after.crc
    for record in records:
        body = json.dumps(record)  # pure ASCII: no line feed within
        crc = zlib.crc32(body.encode(), crc)
        lines.append(f'{body[:-1]}{_CRC}{crc:08x}"}}\n')
    data = "".join(lines).encode()
    return data, Place(after.offset + len(data), crc)


def decode(data: bytes, name: object) -> Iterator[tuple[Record, Place]]:
    """Each record with the place behind it. What follows the last line feed is left out: a kill or
    a power cut has torn it.

    Args:
        name: Of the file, for messages.

    Raises:
        LedgerError: A whole line is not what was written.
    """
    place = Place()
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        body = line[:-_CRC_CHARS] + b"}"
        crc = zlib.crc32(body, place.crc)
        if line[-_CRC_CHARS:] != f'{_CRC}{crc:08x}"}}'.encode():
            raise LedgerError(
                f"{name}:{number}: the checksum at the end of the line does not fit it and the "
                "lines before: the file was changed, or is another run's. Which attempts have been "
                "trained on is not known any more: put the right file back, or begin a new run "
                "from the exported weights"
            )
        place = Place(place.offset + len(line) + 1, crc)
        yield json.loads(body), place
