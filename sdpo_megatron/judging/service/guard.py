"""ASGI guard before everything else: no token, no answer; and no body beyond the limit.

It stands outside the framework because FastAPI parses and validates a body before it asks
dependencies, so that a stranger would be told what is wrong with a request.
"""

from __future__ import annotations

import hmac
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdpo_megatron.judging.service.metrics import REQUESTS, ServiceMetrics

GUARDED = "/v1/"  # health, metrics and the schema hold no answers


class Guard:
    """Checks the bearer token in constant time, bounds the body, and counts the answers."""

    def __init__(
        self, app: ASGIApp, token: str | None, max_body_bytes: int, metrics: ServiceMetrics
    ) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of any ASGI kind."""
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.add(REQUESTS.name, code=str(message["status"]))
            await send(message)

        await self._guarded(scope, receive, counted)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self._expected is not None and not hmac.compare_digest(
            headers.get(b"authorization", b""), self._expected
        ):
            await _refuse(
                send, 401, "a valid bearer token is required", (b"www-authenticate", b"Bearer")
            )
            return
        try:
            body = await _body(receive, self._max_body_bytes)
        except _GoneAway:
            return
        if body is None:
            await _refuse(send, 413, f"the body is larger than {self._max_body_bytes} bytes")
            return
        if scope["method"] == "POST" and not body.strip():
            await _refuse(send, 400, "the body is empty, expected JSON")
            return
        await self._app(_as_json(scope), _replay(body, receive), send)


class _GoneAway(Exception):
    """The client hung up before its body was whole."""


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None when larger than `limit` (which is noticed before it is all held)."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneAway
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _as_json(scope: Scope) -> Scope:
    """Bodies are JSON here, whatever they are called: else FastAPI calls a malformed one by another
    name a batch with wrong fields."""
    kept = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return {**scope, "headers": [*kept, (b"content-type", b"application/json")]}


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _refuse(send: Send, status: int, detail: str, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps({"detail": detail}).encode()
    fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})
