"""Connections that cannot be held open: whoever is slow to ask, or to read, is hung up on.

uvicorn bounds only idle time between two requests. Here a request's head must arrive within a
time-out, its body within the same and a little more for each MiB that has come, and an answer must
be taken at the same pace; this holds before a token was seen and after.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections import OrderedDict
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sdpo_megatron.errors import ConfigError

BACKLOG = 1024
KEEP_ALIVE_S = 75.0  # of an idle connection; longer than clients keep theirs, which avoids a race
BODY_BYTES_PER_S = 2**20
MAX_DESCRIPTORS = 65_536

Owed = Literal["", "head", "body", "reading"]


class Strangers:
    """Connections whose request is not complete, oldest first, and how many there may be."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[BoundedConnection, None] = OrderedDict()

    def add(self, connection: BoundedConnection) -> None:
        """Remember one; beyond the limit the oldest is hung up on."""
        self._waiting[connection] = None
        if len(self._waiting) > self._limit:
            oldest, _ = self._waiting.popitem(last=False)
            oldest.hang_up()

    def remove(self, connection: BoundedConnection) -> None:
        """Its request is complete, or it is gone."""
        self._waiting.pop(connection, None)


class BoundedConnection(H11Protocol):
    """One HTTP connection; the loop's clock runs while its client owes something."""

    def __init__(self, *args: Any, timeout_s: float, strangers: Strangers, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self._timeout_s, self._strangers = timeout_s, strangers
        self._owed: Owed = ""
        self._since, self._received = 0.0, 0
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection owes the head of a request."""
        super().connection_made(transport)
        self._owe("head")

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is owed any more."""
        super().connection_lost(exc)
        self._owe("")

    def data_received(self, data: bytes) -> None:
        """Some of what is owed."""
        self._received += len(data)
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """The next request may begin, which uvicorn's own clock bounds until its first byte."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        super().pause_writing()
        self._owe("reading")

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self._owe("")

    def hang_up(self) -> None:
        """Close without a word: what is owed did not come."""
        self._owe("")
        self.transport.abort()

    def _look(self) -> None:
        if self._owed == "reading":
            return
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._owe("body")
        elif state is h11.IDLE and self.conn.trailing_data[0]:
            self._owe("head")
        else:
            self._owe("")

    def _owe(self, owed: Owed) -> None:
        if owed == self._owed:
            return
        self._owed, self._since, self._received = owed, self.loop.time(), 0
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        if owed in ("head", "body"):
            self._strangers.add(self)
        else:
            self._strangers.remove(self)
        if owed:
            self._clock = self.loop.call_later(self._timeout_s, self._late)

    def _late(self) -> None:
        end = self._since + self._timeout_s
        if self._owed == "body":
            end += self._received / BODY_BYTES_PER_S
        if end <= self.loop.time():
            self.hang_up()
        else:
            self._clock = self.loop.call_at(end, self._late)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    Its protocol is named: asyncio sets TCP_NODELAY only where it is, and without that every answer
    on a kept connection waits 40 ms for an acknowledgement.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from error
    return listener


def allow_descriptors() -> int:
    """Allow this process as many open descriptors as it may have; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft if soft != resource.RLIM_INFINITY else MAX_DESCRIPTORS
