"""Messages with descriptors, over SOCK_SEQPACKET sockets between processes that trust each other:
host, zygote, workers and templates. Nothing that an attempt or a judge says is read this way.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import socket
import struct
from typing import Any

from .fence import linux

MAX_FDS = 8
_HEADER = struct.Struct("@PIPNPNi0P")  # struct msghdr
_VECTOR = struct.Struct("@PN")  # struct iovec
_FIRST_FD = struct.Struct("=i")
# Where a Letterbox has these, and the data; the descriptors are behind a struct cmsghdr.
_VECTOR_AT, _DATA_AT, _CONTROL_AT = 64, 80, 8192
_FIRST_FD_AT = _CONTROL_AT + 16


def pack(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode()


def unpack(data: bytes) -> dict[str, Any]:
    """Inverse of `pack`, but that tuples have become lists."""
    message: dict[str, Any] = json.loads(data)
    return message


def receive(link: socket.socket) -> tuple[bytes, list[int]]:
    """One message and its descriptors; b"" when the other side is gone."""
    try:
        data, ancillary, _, _ = link.recvmsg(
            65536, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError:
        return b"", []
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


class Letterbox:
    """Receives messages with descriptors into memory that is always the same, by one call: for a
    process that is cloned between two messages."""

    def __init__(self, fd: int, free: int) -> None:
        """`fd` is the socket; `free` the first descriptor that is not in use when one comes."""
        self._fd, self._free = fd, free
        control_bytes = socket.CMSG_SPACE(MAX_FDS * 4)
        self._no_control = struct.Struct(f"{control_bytes}x")
        self._memory = ctypes.create_string_buffer(_CONTROL_AT + control_bytes)
        address = ctypes.addressof(self._memory)
        _VECTOR.pack_into(self._memory, _VECTOR_AT, address + _DATA_AT, _CONTROL_AT - _DATA_AT)
        control = address + _CONTROL_AT, control_bytes
        self._data = memoryview(self._memory).cast("B")[_DATA_AT:_CONTROL_AT]
        self._header = 0, 0, address + _VECTOR_AT, 1, *control, 0
        flags = int(socket.MSG_CMSG_CLOEXEC)
        self._call = linux.number("recvmsg"), fd, address, flags, 0, 0, 0

    def receive(self) -> bytes:
        """Waits for a message; its descriptors are the free ones from the first up. b"" when the
        other side is gone. Raises OSError."""
        _HEADER.pack_into(self._memory, 0, *self._header)
        self._no_control.pack_into(self._memory, _CONTROL_AT)  # nothing of the last message
        size = linux.SYSCALL(*self._call)
        if size < 0:
            raise OSError(ctypes.get_errno(), "recvmsg")
        if size and _FIRST_FD.unpack_from(self._memory, _FIRST_FD_AT)[0] != self._free:
            raise OSError(0, f"a descriptor below {self._free} was not in use")
        return bytes(self._data[:size])

    def answer(self, message: bytes) -> None:
        """Sends a message back. Raises OSError."""
        os.write(self._fd, message)
