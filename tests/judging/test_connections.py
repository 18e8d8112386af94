"""Connections that cannot be held open, on real sockets; the application behind them is the
test's."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.judging.service.connections import Strangers, listen
from sdpo_megatron.judging.service.serve import bounded_server

TIMEOUT_S = 1.0  # a busy machine is late
PATIENCE_S = 60.0  # of a busy machine
LARGE = 64 * 2**20


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """/healthz at once; /large answers much; anything else says how long the body was."""
    if scope["type"] != "http":
        return
    size, more = 0, scope["path"] not in ("/healthz", "/large")
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    body = b"x" * LARGE if scope["path"] == "/large" else str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Server:
    """The server in a thread of its own."""

    def __init__(self) -> None:
        self.listener = listen("127.0.0.1", 0)
        self.uvicorn: uvicorn.Server = bounded_server(app, timeout_s=TIMEOUT_S, drain_s=1.0)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self.uvicorn.serve(sockets=[self.listener]))
        )
        self._thread.start()

    def connect(self, first: bytes = b"") -> socket.socket:
        connection = socket.create_connection(self.listener.getsockname(), timeout=PATIENCE_S)
        connection.sendall(first)
        return connection

    def close(self) -> None:
        self.uvicorn.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def answer(connection: socket.socket) -> bytes:
    """One whole answer; what had come of it when the server hung up, b"" mostly."""
    got = b""
    while True:
        head, _, body = got.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length and body and len(body) >= int(length[1]):
            return got
        try:
            more = connection.recv(65536)
        except ConnectionResetError:
            return got
        if not more:
            return got
        got += more


HALVES = {
    "nothing": b"",
    "half a line": b"POST /v1/ver",
    "a head without its end": b"POST /v1/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n",
    "a body that does not come": b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
    "half a body": b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234",
    "half a chunk": b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n12",
    "a second request cut short": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",
}


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES.keys())
def test_half_a_request_is_hung_up_on_and_keeps_nobody_waiting(server: Server, half: bytes) -> None:
    held = [server.connect(half) for _ in range(40)]
    asking = server.connect(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200 OK" in answer(asking)
    for connection in held:
        while answer(connection):  # of the first of two requests
            pass
        connection.close()
    asking.close()


@pytest.mark.parametrize("first", [b"GET /", b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n"])
def test_a_trickle_is_hung_up_on_too(server: Server, first: bytes) -> None:
    connection = server.connect(first)
    end = time.monotonic() + PATIENCE_S
    gone = False
    while not gone and time.monotonic() < end:
        try:
            connection.sendall(b"x")
        except (ConnectionResetError, BrokenPipeError):
            gone = True
        time.sleep(TIMEOUT_S / 10)
    assert gone
    connection.close()


def test_a_large_body_at_a_good_pace_gets_the_time_it_needs(server: Server) -> None:
    piece, pieces = b"x" * 2**20, 8
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {pieces * len(piece)}\r\n\r\n"
    with server.connect(head.encode()) as connection:
        for _ in range(pieces):
            connection.sendall(piece)
            time.sleep(TIMEOUT_S / 5)  # more than the time-out in all
        assert answer(connection).endswith(str(pieces * len(piece)).encode())


def test_an_idle_connection_between_two_requests_is_kept(server: Server) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect(request) as connection:
        assert b"200 OK" in answer(connection)
        time.sleep(1.5 * TIMEOUT_S)
        connection.sendall(request)
        assert b"200 OK" in answer(connection)


def test_an_answer_that_is_not_read_is_given_up(server: Server) -> None:
    before = set(server.uvicorn.server_state.connections)
    with server.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"):
        end = time.monotonic() + PATIENCE_S
        made: set[Any] = set()
        while not made and time.monotonic() < end:
            made = set(server.uvicorn.server_state.connections) - before
            time.sleep(0.01)
        while made & set(server.uvicorn.server_state.connections) and time.monotonic() < end:
            time.sleep(0.05)
        assert made
        assert not made & set(server.uvicorn.server_state.connections)


def test_accepted_connections_send_small_answers_at_once() -> None:
    """asyncio sets TCP_NODELAY only where the socket's protocol is named."""

    async def nodelay() -> int:
        made: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                accepted = transport.get_extra_info("socket")
                made.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                transport.close()

        listener = listen("localhost", 0)
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Accepted, sock=listener):
            with socket.create_connection(listener.getsockname()[:2]):
                return await made

    assert asyncio.run(nodelay()) != 0


def test_beyond_their_number_the_oldest_stranger_goes() -> None:
    gone: list[int] = []

    class Stranger:
        def __init__(self, number: int) -> None:
            self.number = number

        def hang_up(self) -> None:
            gone.append(self.number)

    strangers = Strangers(limit=2)
    all_of_them: list[Any] = [Stranger(number) for number in range(5)]
    for stranger in all_of_them[:3]:
        strangers.add(stranger)
    assert gone == [0]
    strangers.remove(all_of_them[1])
    strangers.add(all_of_them[3])
    assert gone == [0]
    strangers.add(all_of_them[4])
    assert gone == [0, 2]


def test_an_address_that_cannot_be_listened_on_is_named() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="cannot listen on 127"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match=r"cannot listen on no\.such\.host\.invalid:80"):
        listen("no.such.host.invalid", 80)
