"""The suite's own rule: a test cannot reach beyond this machine."""

from __future__ import annotations

import socket

import pytest


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]
)
def test_connections_that_leave_the_machine_are_refused(
    family: socket.AddressFamily, host: str
) -> None:
    with socket.socket(family) as client, pytest.raises(PermissionError, match="without a network"):
        client.connect((host, 80))


def test_loopback_is_open() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        assert client.getpeername() == server.getsockname()
