"""The client tells infrastructure from wrong answers, spreads, retries and hedges. The services
here are functions."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from sdpo_megatron.errors import ConfigError, VerifierUnavailable
from sdpo_megatron.judging.pool import VerifierBroken
from sdpo_megatron.judging.remote.client import VerifierClient
from sdpo_megatron.judging.remote.endpoints import Endpoints
from sdpo_megatron.judging.retry import RetryLater, delay_s
from sdpo_megatron.judging.wire import verdict_to_json
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.base import BadItem, graded

Handler = Callable[[httpx.Request], Awaitable[httpx.Response]]
ONE, TWO = "http://one:1", "http://two:2"


def verdict_reply(verdict: Verdict) -> httpx.Response:
    result = {"id": "0", "verdict": verdict_to_json(verdict), "failure": None}
    return httpx.Response(200, json={"results": [result]})


def failure_reply(reason: str) -> httpx.Response:
    failure = {"reason": reason, "message": "because"}
    return httpx.Response(200, json={"results": [{"id": "0", "verdict": None, "failure": failure}]})


def ask(handler: Handler, times: int = 1, **settings: Any) -> list[Verdict]:
    """Ask `times` times, one after the other."""

    async def run() -> list[Verdict]:
        settings.setdefault("endpoints", (ONE,))
        settings.setdefault("token", "t")
        async with VerifierClient(transport=httpx.MockTransport(handler), **settings) as client:
            return [await client.verify("multiple_choice", {"a": 1}, "text") for _ in range(times)]

    return asyncio.run(run())


def replies(*answers: httpx.Response | Exception) -> tuple[Handler, list[httpx.Request]]:
    """A service that gives these replies in order (the last for ever), and what it was asked."""
    asked: list[httpx.Request] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        answer = answers[min(len(asked), len(answers) - 1)]
        asked.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler, asked


def test_a_verdict_comes_back_whole_and_a_wrong_answer_is_not_retried() -> None:
    wrong = graded(False, feedback="no", format_ok=True, answer="C")
    handler, asked = replies(verdict_reply(wrong))
    assert ask(handler, retries=5) == [wrong]
    (request,) = asked
    assert request.headers["Authorization"] == "Bearer t"
    assert request.url == "http://one:1/v1/verify"
    (item,) = json.loads(request.content)["items"]
    assert item == {
        "id": "0",
        "verifier": "multiple_choice",
        "item": {"a": 1},
        "response": "text",
    }


@pytest.mark.parametrize(
    "broken",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("slow"),
        httpx.Response(500),
        httpx.Response(503, json={"detail": "stopping"}),
        httpx.Response(429, headers={"Retry-After": "0"}),
        httpx.Response(200, text="<html>a proxy's page</html>"),
        httpx.Response(200, json={"results": []}),
        failure_reply("unavailable"),
        failure_reply("deadline"),
    ],
    ids=lambda b: b.status_code if isinstance(b, httpx.Response) else type(b).__name__,
)
def test_infrastructure_is_retried_and_never_becomes_a_reward(
    broken: httpx.Response | Exception,
) -> None:
    right = graded(True)
    handler, asked = replies(broken, verdict_reply(right))
    assert ask(handler, retries=1) == [right]
    assert len(asked) == 2
    keys = [request.headers["Idempotency-Key"] for request in asked]
    assert keys[0] == keys[1]  # so that nothing is judged twice by one service
    handler, asked = replies(broken)
    with pytest.raises(VerifierUnavailable, match="gave up after 2 attempts"):
        ask(handler, retries=1)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (httpx.Response(401, json={"detail": "d"}), ConfigError, "the token is wrong"),
        (httpx.Response(404), ConfigError, "HTTP 404"),
        (httpx.Response(422, json={"detail": "unknown verifier"}), ConfigError, "unknown verifier"),
        (failure_reply("bad_item"), BadItem, "because"),
        (failure_reply("broken"), VerifierBroken, "because"),
    ],
)
def test_what_a_retry_would_not_mend_is_an_error_at_once(
    answer: httpx.Response, error: type[Exception], message: str
) -> None:
    handler, asked = replies(answer)
    with pytest.raises(error, match=message):
        ask(handler, retries=5)
    assert len(asked) == 1


def test_a_dead_endpoint_is_passed_over_while_another_lives() -> None:
    asked: Counter[str] = Counter()

    async def handler(request: httpx.Request) -> httpx.Response:
        asked[request.url.host] += 1
        if request.url.host == "one":
            raise httpx.ConnectError("refused")
        return verdict_reply(graded(True))

    verdicts = ask(handler, times=40, endpoints=(ONE, TWO), retries=3)
    assert [v.success for v in verdicts] == [True] * 40
    assert asked["two"] == 40
    assert asked["one"] <= 5  # asked again only after its time on the bench


def test_load_goes_to_the_endpoint_with_fewest_outstanding() -> None:
    async def run() -> Counter[str]:
        gate, asked = asyncio.Event(), Counter[str]()

        async def handler(request: httpx.Request) -> httpx.Response:
            asked[request.url.host] += 1
            if request.url.host == "one":
                await gate.wait()
            return verdict_reply(graded(True))

        client = VerifierClient(
            (ONE, TWO), token=None, transport=httpx.MockTransport(handler), hedge_after_s=60
        )
        async with client:
            stuck = [asyncio.create_task(client.verify("v", {}, "")) for _ in range(2)]
            await asyncio.sleep(0.05)
            for _ in range(10):
                await client.verify("v", {}, "")
            gate.set()
            await asyncio.gather(*stuck)
        return asked

    asked = asyncio.run(run())
    assert asked == {"one": 1, "two": 11}  # the one that is busy gets nothing more


def test_a_straggler_is_hedged_at_another_endpoint_with_the_same_key() -> None:
    keys: dict[str, str] = {}

    async def handler(request: httpx.Request) -> httpx.Response:
        keys[request.url.host] = request.headers["Idempotency-Key"]
        if len(keys) == 1:
            await asyncio.sleep(60)
        return verdict_reply(graded(True, by=request.url.host))

    (verdict,) = ask(handler, endpoints=(ONE, TWO), hedge_after_s=0.05)
    assert set(keys) == {"one", "two"}
    assert keys["one"] == keys["two"]
    assert verdict.details["by"] == list(keys)[1]


def test_a_hedge_that_fails_does_not_spoil_the_first_answer() -> None:
    asked: list[str] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if len(asked) == 2:
            raise httpx.ConnectError("refused")
        await asyncio.sleep(0.3)
        return verdict_reply(graded(True))

    assert ask(handler, endpoints=(ONE, TWO), hedge_after_s=0.05, retries=0)[0].success
    assert len(asked) == 2


def test_the_waits_between_tries_double_are_drawn_and_honour_retry_after() -> None:
    failed = VerifierUnavailable("x")
    waits = [[delay_s(attempt, failed) for _ in range(300)] for attempt in (1, 2, 3, 30)]
    for bound, drawn in zip((0.2, 0.4, 0.8, 10.0), waits, strict=True):
        assert 0.0 <= min(drawn) < 0.1 * bound < 0.9 * bound < max(drawn) <= bound
    assert min(delay_s(1, RetryLater("x", 3.0)) for _ in range(50)) >= 3.0
    assert max(delay_s(1, RetryLater("x", 1e9)) for _ in range(50)) <= 10.2


def test_a_dns_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [["10.0.0.1", "10.0.0.2"], [], ["10.0.0.2", "10.0.0.3"]]

    async def run() -> list[set[str]]:
        endpoints = Endpoints(["dns+http://verifiers:9401"])
        loop = asyncio.get_running_loop()
        seen = []
        for addresses in answers:

            async def resolve(
                *_: Any, found: list[str] = addresses, **__: Any
            ) -> list[tuple[Any, ...]]:
                if not found:
                    raise OSError("no such name")
                return [(2, 1, 6, "", (host, 9401)) for host in found]

            monkeypatch.setattr(loop, "getaddrinfo", resolve)
            endpoints._resolved_at = float("-inf")
            seen.append({(await endpoints.choose()).url for _ in range(10)})
        return seen

    first, unresolved, later = asyncio.run(run())
    assert first == unresolved == {"http://10.0.0.1:9401", "http://10.0.0.2:9401"}
    assert later == {"http://10.0.0.2:9401", "http://10.0.0.3:9401"}


def test_endpoints_that_are_no_urls_are_named() -> None:
    with pytest.raises(ConfigError, match="verifier endpoint 'localhost:9401'"):
        Endpoints(["localhost:9401"])
    with pytest.raises(ConfigError, match="at least one endpoint"):
        Endpoints([])
