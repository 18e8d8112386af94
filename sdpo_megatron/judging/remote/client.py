"""Client of verifier services: spreads, retries, hedges; never takes a failure for a wrong answer.

| what comes back | means |
| --- | --- |
| a verdict | the answer was judged |
| no connection, 5xx, 429, time-out, failure `unavailable`, `deadline` | infrastructure: try again |
| 401, 403 | the token is wrong: `ConfigError`, at once |
| another 4xx, failure `bad_item` | task or versions do not fit: `ConfigError`, `BadItem` |
| failure `broken` | the verifier raised: `VerifierBroken` |
"""

from __future__ import annotations

import asyncio
import json
import math
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from sdpo_megatron.errors import ConfigError, SdpoError, VerifierUnavailable
from sdpo_megatron.judging.pool import VerifierBroken
from sdpo_megatron.judging.remote.endpoints import Endpoint, Endpoints
from sdpo_megatron.judging.retry import RetryLater, retried
from sdpo_megatron.judging.service.config import TOKEN_VARIABLE, read_token
from sdpo_megatron.judging.wire import verdict_from_json
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.base import BadItem

if TYPE_CHECKING:
    from sdpo_megatron.judging.config import JudgeConfig

CONNECT_TIMEOUT_S = 5.0


class VerifierClient:
    """Asks services for verdicts.

    An async context manager; safe for any number of concurrent calls.
    """

    def __init__(
        self,
        endpoints: tuple[str, ...],
        *,
        token: str | None,
        timeout_s: float = 120.0,
        retries: int = 0,
        hedge_after_s: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            endpoints: See `Endpoints`.
            token: The services' bearer token; None for services that answer anyone.
            timeout_s: For one try, the hedge included.
            retries: Tries after the first.
            hedge_after_s: Silence after which a second endpoint is asked as well.
            transport: Another way than TCP to reach them, e.g. a unix socket.
        """
        self._endpoints = Endpoints(endpoints)
        self._timeout_s, self._retries, self._hedge_after_s = timeout_s, retries, hedge_after_s
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            # verifiers are inside the cluster: a proxy of the environment is not meant
            transport=transport,
            trust_env=False,
        )

    @classmethod
    def of(cls, config: JudgeConfig) -> VerifierClient:
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
        return cls(
            config.endpoints,
            token=token,
            timeout_s=config.timeout_s,
            retries=config.retries,
            hedge_after_s=config.hedge_after_s,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def verify(self, verifier: str, item: Mapping[str, Any], response: str) -> Verdict:
        """Judge one response somewhere.

        Raises:
            VerifierUnavailable: Infrastructure failed in every try.
            ConfigError, BadItem, VerifierBroken: Trying again would not help; see the module's
                table.
        """
        body = self._body(verifier, item, response)
        # One key for all tries: a service that was asked before and still judges, or has judged,
        # gives that answer. Failures are not kept by it.
        key = str(uuid.uuid4())

        async def once() -> Verdict:
            return await self._hedged(body, key)

        return await retried(once, retries=self._retries, timeout_s=self._timeout_s)

    def _body(self, verifier: str, item: Mapping[str, Any], response: str) -> bytes:
        one = {"id": "0", "verifier": verifier, "item": dict(item), "response": response}
        deadline_s = min(self._timeout_s, 600.0)
        return json.dumps({"items": [one], "deadline_s": deadline_s}).encode("ascii")

    async def _hedged(self, body: bytes, key: str) -> Verdict:
        """Ask one endpoint; after a silence a second one too.

        The first verdict counts, the other is cancelled.
        """
        first = await self._endpoints.choose()
        tasks = {asyncio.create_task(self._ask(first, body, key))}
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._hedge_after_s)
            if not done and self._endpoints.count > 1:
                second = await self._endpoints.choose(frozenset({first.url}))
                tasks.add(asyncio.create_task(self._ask(second, body, key)))
            return await _first_verdict(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, endpoint: Endpoint, body: bytes, key: str) -> Verdict:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        endpoint.outstanding += 1
        try:
            reply = await self._http.post(
                f"{endpoint.url}/v1/verify", content=body, headers=headers
            )
        except httpx.HTTPError as error:
            endpoint.failed()
            why = str(error) or type(error).__name__
            raise VerifierUnavailable(f"{endpoint.url}: {why}") from error
        finally:
            endpoint.outstanding -= 1
        if reply.status_code >= 500:
            endpoint.failed()
            raise VerifierUnavailable(f"{endpoint.url}: HTTP {reply.status_code}")
        endpoint.succeeded()
        return _verdict_of(endpoint.url, reply)


async def _first_verdict(tasks: set[asyncio.Task[Verdict]]) -> Verdict:
    """The first task to succeed; when all fail, the error of the last."""
    waiting = set(tasks)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        errors = [task.exception() for task in done]
        for task, error in zip(done, errors, strict=True):
            if error is None:
                return task.result()
        for error in errors:
            if error is not None and (not waiting or not isinstance(error, VerifierUnavailable)):
                raise error


def _verdict_of(url: str, reply: httpx.Response) -> Verdict:
    if reply.status_code == 429:
        raise RetryLater(f"{url}: its queue is full", _seconds(reply.headers.get("Retry-After")))
    if reply.status_code != 200:
        hint = " (the token is wrong)" if reply.status_code in (401, 403) else ""
        raise ConfigError(f"{url}: HTTP {reply.status_code}{hint}: {reply.text[:300]}")
    try:
        (result,) = reply.json()["results"]
        if result["verdict"] is not None:
            return verdict_from_json(result["verdict"])
        reason, message = str(result["failure"]["reason"]), str(result["failure"]["message"])
    except (ValueError, KeyError, TypeError) as error:
        raise VerifierUnavailable(f"{url}: not a reply of a verifier service: {error}") from error
    raise _failure(url, reason, message)


def _failure(url: str, reason: str, message: str) -> SdpoError:
    match reason:
        case "bad_item":
            return BadItem(f"{url}: {message}")
        case "broken":
            return VerifierBroken(f"{url}: {message}")
        case _:
            return VerifierUnavailable(f"{url}: {reason}: {message}")


def _seconds(header: str | None) -> float:
    try:
        seconds = float(header or 1.0)
    except ValueError:  # a date is allowed by HTTP; our service sends seconds
        return 1.0
    return seconds if math.isfinite(seconds) and seconds >= 0 else 1.0
