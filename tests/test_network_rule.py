"""The suite's own rule: a test cannot reach beyond this machine."""

from __future__ import annotations

import socket

import pytest


def test_connections_that_leave_the_machine_are_refused() -> None:
    for address in (("192.0.2.1", 80), ("example.org", 80)):
        with socket.socket() as client, pytest.raises(PermissionError, match="without a network"):
            client.connect(address)


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), timeout=5) as client:
            assert client.getpeername() == server.getsockname()
