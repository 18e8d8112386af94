"""Answers kept by Idempotency-Key: a repeated request gets the first answer, no second judging."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


class KeyReused(Exception):
    """The key was used with another body."""


@dataclass(frozen=True)
class Answer:
    """A finished answer. One that is not `final` (something was unavailable) is not kept."""

    body: bytes
    final: bool


class AnswersByKey:
    """Keeps the newest `limit` answers.

    A request that repeats one still being judged waits for that one.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._answers: OrderedDict[str, tuple[bytes, asyncio.Task[Answer]]] = OrderedDict()

    async def answer(
        self, key: str, request_body: bytes, make: Callable[[], Awaitable[Answer]]
    ) -> bytes:
        """The answer to `request_body`, made at most once while it is kept.

        Raises:
            KeyReused: `key` belongs to another body.
            Exception: Whatever `make` raises; the key is free again.
        """
        digest = hashlib.sha256(request_body).digest()
        if key in self._answers:
            kept_digest, task = self._answers[key]
            if kept_digest != digest:
                raise KeyReused(f"Idempotency-Key {key!r} was used with another body")
            self._answers.move_to_end(key)
            return (await asyncio.shield(task)).body
        task = asyncio.ensure_future(make())
        self._answers[key] = (digest, task)
        task.add_done_callback(lambda done: self._settle(key, done))
        # Shielded: when this caller goes away the judging goes on, for the caller who comes again.
        return (await asyncio.shield(task)).body

    def _settle(self, key: str, task: asyncio.Task[Answer]) -> None:
        kept = not task.cancelled() and task.exception() is None and task.result().final
        if not kept and self._answers.get(key, (b"", None))[1] is task:
            del self._answers[key]
        finished = [k for k, (_, t) in self._answers.items() if t.done()]
        for old in finished[: max(0, len(self._answers) - self._limit)]:
            del self._answers[old]
