"""Messages between a rollout worker and the controller: JSON objects, each with its length before.

controller to worker
    welcome     it is taken on
    refused     it is not, and why
    roster      which engines serve which policy version
    lease       groups to make: position, try, question, seed, the version asked for
    give_up     groups that nobody wants any more
    collect     a question to sample and judge for its sums only (validation, diagnostics)
    abandon     the same, not wanted any more
worker to controller
    hello, ready
    attempt     one was judged: its facts for display and metrics
    receipt     a group is complete, in a file
    gave_up     a group has become too old in the worker's hands
    collected   the sums of a `collect`
    complain, load   a fault of an engine; requests that it has
    board       a change of a metric of the verifiers
    warn, failed
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

_LENGTH = struct.Struct(">I")
Message = dict[str, Any]


class Channel:
    """One end. Sending never blocks: messages are small, and the other end always reads."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message; nothing happens once the other end is gone."""
        if not self._writer.is_closing():
            data = json.dumps({"kind": kind, **fields}).encode()
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Message | None:
        """The next message; None when the other end is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            found: Message = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None
        return found

    async def messages(self) -> AsyncIterator[Message]:
        """What comes in, until the other end is gone."""
        while (message := await self.receive()) is not None:
            yield message

    async def close(self) -> None:
        """Send what is left, and close."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return

    def cut(self) -> None:
        """Close at once; what was not sent is lost. For an end that takes nothing any more."""
        self._writer.transport.abort()
