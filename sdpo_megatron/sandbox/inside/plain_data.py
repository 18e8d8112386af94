"""Plain data over a pipe: the only language that a hostile program and its judge share.

None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset and dict, nothing else: no
classes, no references, no code, so decoding cannot run anything. A value of another type is sent as
its type's name and arrives as `Opaque`, which equals nothing. Layout: one tag byte, then a
fixed-size number or a 4-byte big-endian count and the content. A frame is a 4-byte big-endian
length and one encoded value.
"""

from __future__ import annotations

import marshal
import os
import struct
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100
MAX_FRAME_BYTES = 64 << 20
MARSHAL_VERSION = 2  # that all versions of Python 3 read

_COUNT = struct.Struct(">I")
_DOUBLE = struct.Struct(">d")
_SEQUENCES = {list: b"l", tuple: b"t", set: b"e", frozenset: b"z"}
_MAKERS: dict[int, Any] = {ord("l"): list, ord("t"): tuple, ord("e"): set, ord("z"): frozenset}


class PlainDataError(ValueError):
    """Too deep, too large, or bytes that are no encoded value."""


class Opaque:
    """A value that is not plain data: only its type's name crossed. Equal to nothing but itself."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name[:80]

    def __repr__(self) -> str:
        return f"<{self.type_name} object>"


def encode(value: Any) -> bytes:
    """Encodes `value`. Subclasses are sent as their plain base. Raises PlainDataError when nested
    deeper than MAX_DEPTH."""
    parts: list[bytes] = []
    _encode(value, parts, 0)
    return b"".join(parts)


def _encode(value: Any, out: list[bytes], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise PlainDataError(f"nested deeper than {MAX_DEPTH} levels")
    write = _WRITERS.get(type(value))
    if write is None:  # a subclass, or no plain data
        bases = (writer for kind, writer in _WRITERS.items() if isinstance(value, kind))
        write = next(bases, _encode_other)
    write(value, out, depth)


def _encode_constant(value: Any, out: list[bytes], depth: int) -> None:
    out.append({None: b"N", True: b"T", False: b"F"}[value])


def _encode_int(value: Any, out: list[bytes], depth: int) -> None:
    number = int(value)
    raw = number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)
    out.append(b"i" + _COUNT.pack(len(raw)) + raw)


def _encode_float(value: Any, out: list[bytes], depth: int) -> None:
    out.append(b"f" + _DOUBLE.pack(value))


def _encode_complex(value: Any, out: list[bytes], depth: int) -> None:
    out.append(b"c" + _DOUBLE.pack(value.real) + _DOUBLE.pack(value.imag))


def _encode_text(value: Any, out: list[bytes], depth: int) -> None:
    raw = value.encode("utf-8", "surrogatepass")
    out.append(b"s" + _COUNT.pack(len(raw)) + raw)


def _encode_bytes(value: Any, out: list[bytes], depth: int) -> None:
    out.append(b"b" + _COUNT.pack(len(value)) + bytes(value))


def _encode_items(value: Any, out: list[bytes], depth: int) -> None:
    tag = next(tag for kind, tag in _SEQUENCES.items() if isinstance(value, kind))
    items = list(value)
    out.append(tag + _COUNT.pack(len(items)))
    for item in items:
        _encode(item, out, depth + 1)


def _encode_dict(value: Any, out: list[bytes], depth: int) -> None:
    pairs = list(value.items())
    out.append(b"d" + _COUNT.pack(len(pairs)))
    for key, item in pairs:
        _encode(key, out, depth + 1)
        _encode(item, out, depth + 1)


def _encode_other(value: Any, out: list[bytes], depth: int) -> None:
    kind = type(value)
    if kind.__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        scalar = value.item()
        if isinstance(scalar, (bool, int, float, complex, str, bytes)):
            _encode(scalar, out, depth + 1)
            return
    name = str(kind.__name__).encode("utf-8", "replace")[:80]
    out.append(b"o" + _COUNT.pack(len(name)) + name)


_WRITERS: dict[type, Callable[[Any, list[bytes], int], None]] = {
    type(None): _encode_constant,
    bool: _encode_constant,
    int: _encode_int,
    float: _encode_float,
    complex: _encode_complex,
    str: _encode_text,
    bytes: _encode_bytes,
    bytearray: _encode_bytes,
    **dict.fromkeys(_SEQUENCES, _encode_items),
    dict: _encode_dict,
}


def decode(data: bytes) -> Any:
    """Inverse of `encode`. Raises PlainDataError on anything that `encode` cannot have written."""
    try:
        value, end = _decode(data, 0, 0)
    except (struct.error, IndexError, TypeError, UnicodeDecodeError) as error:
        raise PlainDataError(f"malformed: {error}") from None
    if end != len(data):
        raise PlainDataError(f"{len(data) - end} bytes after the value")
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise PlainDataError(f"nested deeper than {MAX_DEPTH} levels")
    tag = data[at]
    at += 1
    if tag == 0x4E:
        return None, at
    if tag == 0x54:
        return True, at
    if tag == 0x46:
        return False, at
    if tag == 0x66:
        return _DOUBLE.unpack_from(data, at)[0], at + 8
    if tag == 0x63:
        return complex(
            _DOUBLE.unpack_from(data, at)[0], _DOUBLE.unpack_from(data, at + 8)[0]
        ), at + 16
    count = _COUNT.unpack_from(data, at)[0]
    at += 4
    if count > len(data) - at:
        raise PlainDataError(f"a count of {count} with {len(data) - at} bytes left")
    if tag in (0x69, 0x73, 0x62, 0x6F):
        return _leaf(tag, data[at : at + count]), at + count
    if tag == 0x64:
        pairs: dict[Any, Any] = {}
        for _ in range(count):
            key, at = _decode(data, at, depth + 1)
            pairs[key], at = _decode(data, at, depth + 1)
        return pairs, at
    if tag not in _MAKERS:
        raise PlainDataError(f"unknown tag {tag}")
    items = []
    for _ in range(count):
        item, at = _decode(data, at, depth + 1)
        items.append(item)
    return _MAKERS[tag](items), at


def _leaf(tag: int, raw: bytes) -> Any:
    if tag == 0x69:
        return int.from_bytes(raw, "big", signed=True)
    if tag == 0x73:
        return raw.decode("utf-8", "surrogatepass")
    if tag == 0x62:
        return raw
    return Opaque(raw.decode("utf-8", "replace"))


def send_frame(fd: int, value: Any, limit: int = MAX_FRAME_BYTES) -> None:
    """Writes one frame to a blocking descriptor. Raises PlainDataError above `limit` bytes, OSError
    when nobody reads."""
    payload = encode(value)
    if len(payload) > limit:
        raise PlainDataError(f"{len(payload)} bytes, the limit is {limit}")
    send_bytes(fd, payload)


def send_bytes(fd: int, payload: bytes) -> None:
    """Writes one frame that holds `payload` as it is. Raises OSError when nobody reads."""
    write_all(fd, _COUNT.pack(len(payload)) + payload)


def write_all(fd: int, data: bytes) -> None:
    """Writes `data` to a blocking descriptor. Raises OSError when nobody reads."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[: 1 << 20]) :]


def receive_frame(fd: int, limit: int = MAX_FRAME_BYTES) -> Any:
    """Reads one frame from a blocking descriptor.

    Raises:
        EOFError: At its end.
        PlainDataError: The frame is malformed.
    """
    return decode(receive_bytes(fd, limit))


def receive_job(fd: int) -> dict[str, Any]:
    """What the host asks, before anybody else has written to `fd`: nothing hostile, so it is read
    by the fastest way."""
    job: dict[str, Any] = marshal.loads(receive_bytes(fd))
    return job


def receive_bytes(fd: int, limit: int = MAX_FRAME_BYTES) -> bytes:
    """The payload of one frame, undecoded. Raises as `receive_frame` does."""
    size = _COUNT.unpack(_read_exactly(fd, 4))[0]
    if size > limit:
        raise PlainDataError(f"a frame of {size} bytes, the limit is {limit}")
    return _read_exactly(fd, size)


def _read_exactly(fd: int, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        piece = os.read(fd, min(size - len(parts), 1 << 20))
        if not piece:
            raise EOFError("the other side closed the channel")
        parts += piece
    return bytes(parts)
