"""The host's ends of one run's descriptors: what to write to the run, and what came from it."""

from __future__ import annotations

import marshal
import os
import select
import struct
from typing import Any

from .inside.plain_data import MARSHAL_VERSION, MAX_FRAME_BYTES, PlainDataError

_PIECE = 1 << 16


class Stream:
    """A non-blocking descriptor with bytes still to send and bytes received, up to a limit.

    Owns the descriptor. What comes over one that does not wake its reader has time.
    """

    def __init__(self, fd: int, limit: int, to_send: bytes = b"", wakes: bool = True) -> None:
        self.fd, self.limit, self._wakes = fd, limit, wakes
        self.received = bytearray()
        self.overflowed = False
        self.open = True
        self._to_send = memoryview(to_send)
        os.set_blocking(fd, False)

    def is_waited_for(self) -> bool:
        """Whether it is to be polled."""
        return self.open and not self.overflowed and (self._wakes or bool(self._to_send))

    def events(self) -> int:
        return select.POLLIN | (select.POLLOUT if self._to_send else 0)

    def advance(self) -> None:
        """Sends and receives what it can without waiting."""
        try:
            while self._to_send:
                self._to_send = self._to_send[os.write(self.fd, self._to_send[:_PIECE]) :]
        except BlockingIOError:
            pass
        except OSError:  # the reader has gone: nothing more to send
            self._to_send = memoryview(b"")
        try:
            while not self.overflowed:
                piece = os.read(self.fd, _PIECE)
                if not piece:
                    self.open = False
                    return
                self.received += piece
                if len(self.received) > self.limit:
                    del self.received[self.limit :]
                    self.overflowed = True
        except BlockingIOError:
            pass
        except OSError:
            self.open = False

    def close(self) -> None:
        os.close(self.fd)


def job_bytes(job: dict[str, Any]) -> bytes:
    """One job, ready to send. Raises PlainDataError when it is too large."""
    payload = marshal.dumps(job, MARSHAL_VERSION)
    if len(payload) > MAX_FRAME_BYTES:
        raise PlainDataError(f"a job of {len(payload)} bytes; the limit is {MAX_FRAME_BYTES}")
    return struct.pack(">I", len(payload)) + payload
