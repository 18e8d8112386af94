"""System calls put down before a clone and carried out after it.

What a cloned process touches, the kernel copies page by page, and that is most of what a run
costs: each Python function brings its code, its constants and the modules that it asks. One block
of numbers and one short loop over it bring little.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NoReturn

from . import linux

ANY = -1 << 40  # a result that is not known before, but no error
_ROW = struct.Struct("=8q")  # result, number, six arguments
_ARGUMENTS_AT = 16
_PIECE_BYTES = 1 << 14


class Calls:
    """System calls in the order in which they are to be made, each with its exact result."""

    def __init__(self) -> None:
        self._rows = bytearray()
        self._memory: list[ctypes.Array[ctypes.c_char]] = []  # what the numbers point to
        self._left = 0  # bytes of the last piece

    def add(self, name: str, *arguments: int, result: int = 0) -> int:
        """Appends a call. Returns its place."""
        place = len(self._rows)
        rest = [0] * (6 - len(arguments))
        self._rows += _ROW.pack(result, linux.number(name), *arguments, *rest)
        return place

    def replace(self, place: int, *arguments: int) -> None:
        """Gives the call at `place` other first arguments."""
        struct.pack_into(f"={len(arguments)}q", self._rows, place + _ARGUMENTS_AT, *arguments)

    def hold(self, content: bytes) -> int:
        """The address of a copy of `content` with a zero byte behind it."""
        return self.hold_open(content, len(content) + 1)[0]

    def hold_open(self, content: bytes, size: int) -> tuple[int, memoryview]:
        """Like `hold`; also the `size` bytes there, for other contents."""
        room = size + -size % 8
        if room > self._left:
            self._left = max(room, _PIECE_BYTES)
            self._memory.append(ctypes.create_string_buffer(self._left))
        piece = self._memory[-1]
        start = len(piece) - self._left
        self._left -= room
        view = memoryview(piece).cast("B")[start : start + size]
        view[: len(content)] = content
        return ctypes.addressof(piece) + start, view

    def carry_out(self) -> None:
        """Makes the calls. Raises OSError at the first whose result is another."""
        syscall = linux.SYSCALL
        for result, *row in _ROW.iter_unpack(self._rows):
            got = syscall(*row)
            if got != result and (result != ANY or got < 0):
                _fail(row[0], result, got)


def _fail(number: int, result: int, got: int) -> NoReturn:
    errno = ctypes.get_errno() if got < 0 else 0
    problem = os.strerror(errno) if errno else f"returned {got}, expected {result}"
    raise OSError(errno, f"{linux.name_of(number)}: {problem}")
