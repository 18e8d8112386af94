"""Client of verifier services: spreads and retries; never takes a failure for a wrong answer.

| what comes back | means |
| --- | --- |
| a verdict | the answer was judged |
| no connection, no sign of life, 5xx, failure `unavailable` or `deadline` | try again |
| 429 | no worker in time: come again after `Retry-After`, for `wait_s` seconds |
| failure `unknown_item` | the service lacks the item: send it, then ask again |
| failure `bad_item`, `broken`, 413 | `BadItem`, `VerifierBroken`: this attempt has no verdict |
| 401, 403, another 4xx | the token is wrong, or versions do not fit: `ConfigError`, at once |

An item travels once to each service; after that the sha256 of its canonical JSON stands for it.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from sdpo_megatron.errors import ConfigError, VerifierUnavailable
from sdpo_megatron.judging.bearer_token import TOKEN_VARIABLE, read_token
from sdpo_megatron.judging.bounds import LONGEST_DEADLINE_S, seconds_at_most
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.remote.endpoints import Endpoint, Endpoints
from sdpo_megatron.judging.remote.replies import (
    ComeAgain,
    Reply,
    UnknownItem,
    checked,
    json_of,
    outcome_of,
    verdict_of,
)
from sdpo_megatron.judging.retry import delay_s, retried
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.series import VERIFY_CLIENT_REQUESTS, VERIFY_CLIENT_SECONDS

if TYPE_CHECKING:
    from sdpo_megatron.judging.config import JudgeConfig

CONNECT_TIMEOUT_S = 5.0
# Silence after which a service is asked for a sign of life, and how long it may take to give one.
SILENCE_S = 20.0
# Beyond a request's own deadline, before it is given up.
GRACE_S = 10.0

SecondsAtMost = Callable[[str, Mapping[str, Any]], float]


class VerifierClient:
    """A `Backend`: asks services for verdicts.

    An async context manager; safe for any number of concurrent calls.
    """

    def __init__(
        self,
        endpoints: tuple[str, ...],
        *,
        token: str | None,
        seconds_at_most: SecondsAtMost = lambda verifier, item: 120.0,
        wait_s: float = 600.0,
        retries: int = 0,
        failed: Callable[[], None] = lambda: None,
        board: Board | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            endpoints: See `Endpoints`.
            token: The services' bearer token; None for services that answer anyone.
            seconds_at_most: For (verifier, item): seconds of judging, once a worker has it.
            wait_s: Seconds that one item may wait for a worker, in each try.
            retries: Tries after the first.
            failed: Called after each try that infrastructure failed.
            board: Shows requests by endpoint.
        """
        self._endpoints = Endpoints(endpoints)
        self._token, self._seconds_at_most = token, seconds_at_most
        self._wait_s, self._retries, self._failed = wait_s, retries, failed
        self._board = board or Board()
        self._session: aiohttp.ClientSession | None = None
        self._uploads: dict[tuple[str, str], asyncio.Task[None]] = {}

    @classmethod
    def of(
        cls,
        config: JudgeConfig,
        failed: Callable[[], None] = lambda: None,
        board: Board | None = None,
    ) -> VerifierClient:
        """The client that a judge needs.

        Raises:
            ConfigError: There is no token.
        """
        token = read_token(config.token_file)
        if token is None:
            raise ConfigError(
                f"judge.where is endpoints, but there is no bearer token: set judge.token_file or "
                f"the environment variable {TOKEN_VARIABLE}"
            )

        def at_most(verifier: str, item: Mapping[str, Any]) -> float:
            return seconds_at_most(verifier, item, code=config.code, cpu_limit_s=config.cpu_limit_s)

        return cls(
            config.endpoints,
            token=token,
            seconds_at_most=at_most,
            wait_s=config.wait_s,
            retries=config.retries,
            failed=failed,
            board=board,
        )

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        # Verifiers are inside the cluster: aiohttp ignores proxies of the environment by default.
        self._session = aiohttp.ClientSession(
            headers=headers, connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        for upload in self._uploads.values():
            upload.cancel()
        await self._session.close()

    async def verify(self, verifier: str, item: Item, response: str) -> Verdict:
        """See `Backend`."""
        judging_s = self._seconds_at_most(verifier, item.data)
        one = {"id": "0", "verifier": verifier, "item_sha256": item.sha256, "response": response}

        async def once() -> Verdict:
            start, visit = time.monotonic(), 0
            while True:
                waits_s = max(0.0, self._wait_s - (time.monotonic() - start))
                try:
                    return await self._ask(one, item, min(waits_s + judging_s, LONGEST_DEADLINE_S))
                except ComeAgain as error:
                    visit += 1
                    pause_s = error.after_s + delay_s(visit)
                    if pause_s > waits_s:
                        raise VerifierUnavailable(
                            f"no worker within {self._wait_s:.0f} s: {error}"
                        ) from error
                    await asyncio.sleep(pause_s)

        return await retried(once, retries=self._retries, failed=self._failed)

    async def _ask(self, one: Mapping[str, str], item: Item, deadline_s: float) -> Verdict:
        """Ask the least busy endpoint; send it the item when it lacks that."""
        endpoint = await self._endpoints.choose()
        body = json.dumps({"items": [one], "deadline_s": deadline_s}).encode("ascii")
        for _ in range(3):  # a small cache may have dropped the item again
            reply = await self._post(endpoint, "/v1/verify", body, deadline_s + GRACE_S)
            try:
                return verdict_of(endpoint.url, reply)
            except UnknownItem:
                await self._upload(endpoint, item)
        raise VerifierUnavailable(f"{endpoint.url}: it does not keep the item that it was sent")

    async def _upload(self, endpoint: Endpoint, item: Item) -> None:
        """Send an item, once for all attempts that wait for it."""
        key = (endpoint.url, item.sha256)
        upload = self._uploads.get(key)
        if upload is None:
            upload = self._uploads[key] = asyncio.create_task(self._send(endpoint, item))
            upload.add_done_callback(lambda done: self._sent(key, done))
        await asyncio.shield(upload)

    def _sent(self, key: tuple[str, str], upload: asyncio.Task[None]) -> None:
        del self._uploads[key]
        if not upload.cancelled():
            upload.exception()  # whoever waited for it has it; nobody need be left

    async def _send(self, endpoint: Endpoint, item: Item) -> None:
        reply = await self._post(endpoint, "/v1/items", item.json(), CONNECT_TIMEOUT_S + SILENCE_S)
        got = json_of(endpoint.url, reply).get("sha256")
        if got != item.sha256:
            raise ConfigError(
                f"{endpoint.url}: it names an item {got}, expected {item.sha256}: its version and "
                "this one write items differently"
            )

    async def _post(self, endpoint: Endpoint, path: str, body: bytes, seconds: float) -> Reply:
        """One request, given up when the service shows no sign of life.

        Raises:
            VerifierUnavailable, ConfigError, BadItem: See the module's table.
        """
        request = asyncio.create_task(self._exchange(endpoint.url + path, body, seconds))
        endpoint.outstanding += 1
        started = time.monotonic()
        try:
            while not (await asyncio.wait({request}, timeout=SILENCE_S))[0]:
                await self._sign_of_life(endpoint.url)
            reply = request.result()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            endpoint.failed()
            self._count(endpoint, "failed", started)
            why = str(error) or type(error).__name__
            raise VerifierUnavailable(f"{endpoint.url}: {why}") from error
        finally:
            endpoint.outstanding -= 1
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        self._count(endpoint, outcome_of(reply.status), started)
        if reply.status >= 500:
            endpoint.failed()
            raise VerifierUnavailable(f"{endpoint.url}: HTTP {reply.status}")
        endpoint.succeeded()
        return checked(endpoint.url, reply)

    def _count(self, endpoint: Endpoint, outcome: str, started: float) -> None:
        seconds = time.monotonic() - started
        self._board.add(VERIFY_CLIENT_REQUESTS.name, endpoint=endpoint.url, outcome=outcome)
        self._board.observe(VERIFY_CLIENT_SECONDS.name, seconds, endpoint=endpoint.url)

    async def _exchange(self, url: str, body: bytes, seconds: float) -> Reply:
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_TIMEOUT_S)
        headers = {"Content-Type": "application/json"}
        async with self._session.post(
            url, data=io.BytesIO(body), headers=headers, timeout=timeout
        ) as reply:
            return Reply(reply.status, reply.headers.get("Retry-After"), await reply.read())

    async def _sign_of_life(self, url: str) -> None:
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=SILENCE_S, sock_connect=CONNECT_TIMEOUT_S)
        async with self._session.get(f"{url}/healthz", timeout=timeout) as reply:
            reply.raise_for_status()
