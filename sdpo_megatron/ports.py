"""Ports for servers that take seconds to start: kept until they listen, so that nothing else on the
machine is given them in between."""

from __future__ import annotations

import socket


def hold_port(host: str, port: int = 0) -> socket.socket:
    """Bind `port` of `host` (0: a free one) without listening; close the socket to let it go.

    Meanwhile the system hands the port to nobody who asks for any free one, neither to a server nor
    to the near end of a connection, while a server that sets SO_REUSEADDR (torch's store, uvicorn)
    can listen on it. Linux only. The number is in `.getsockname()[1]`.

    Raises:
        OSError: the port is taken or not ours to take.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held
