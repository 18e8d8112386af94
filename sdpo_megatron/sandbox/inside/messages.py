"""Messages of plain data with descriptors, over a SOCK_SEQPACKET socket."""

from __future__ import annotations

import array
import socket

_MAX_FDS = 8


def receive(link: socket.socket) -> tuple[bytes, list[int]]:
    """One message and its descriptors; b"" when the other side is gone."""
    try:
        data, ancillary, _, _ = link.recvmsg(
            65536, socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError:
        return b"", []
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)
