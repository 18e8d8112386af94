"""The client tells infrastructure from wrong answers, spreads, retries, and sends items once. The
services here are small ones of the test, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sdpo_megatron.errors import ConfigError, VerifierBroken, VerifierUnavailable
from sdpo_megatron.judging.config import JudgeConfig
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.remote import client as clients
from sdpo_megatron.judging.remote.client import VerifierClient
from sdpo_megatron.judging.remote.endpoints import Endpoints
from sdpo_megatron.judging.retry import delay_s
from sdpo_megatron.judging.wire import verdict_to_json
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.series import VERIFY_CLIENT_REQUESTS, VERIFY_CLIENT_SECONDS
from sdpo_megatron.verifiers.base import BadItem, graded
from sdpo_megatron.verifiers.code import CodeVerifierConfig

ITEM = Item({"a": 1})
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service:
    """Answers /v1/verify by `handler`, keeps items, and remembers what it was asked."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.items: list[dict[str, Any]] = []
        self.url = ""

    async def verify(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.headers.append(request.headers)
        return await self.handler(request)

    async def keep(self, request: web.Request) -> web.StreamResponse:
        self.items.append(await request.json())
        return web.json_response({"sha256": Item(self.items[-1]).sha256})

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})


@contextlib.asynccontextmanager
async def serving(*handlers: Handler) -> AsyncIterator[list[Service]]:
    async with contextlib.AsyncExitStack() as exits:
        services = []
        for handler in handlers:
            service = Service(handler)
            app = web.Application(client_max_size=2**24)
            app.router.add_post("/v1/verify", service.verify)
            app.router.add_post("/v1/items", service.keep)
            app.router.add_get("/healthz", service.healthz)
            server = await exits.enter_async_context(TestServer(app))
            service.url = str(server.make_url("")).rstrip("/")
            services.append(service)
        yield services


def verdict_reply(verdict: Verdict) -> web.Response:
    result = {"id": "0", "verdict": verdict_to_json(verdict), "failure": None}
    return web.json_response({"results": [result]})


def failure_reply(reason: str) -> web.Response:
    failure = {"reason": reason, "message": "because"}
    return web.json_response({"results": [{"id": "0", "verdict": None, "failure": failure}]})


Answer = Callable[[], web.Response] | type[Exception]


def in_turn(*answers: Answer) -> Handler:
    """These answers in order, the last for ever. An exception breaks the connection."""
    given = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal given
        answer = answers[min(given, len(answers) - 1)]
        given += 1
        if isinstance(answer, type):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return answer()

    return handler


def ask(handler: Handler, times: int = 1, **settings: Any) -> tuple[list[Verdict], Service]:
    """Ask one service `times` times, one after the other; the verdicts, and the service."""
    services: list[Service] = []

    async def run() -> list[Verdict]:
        async with serving(handler) as found:
            services.extend(found)
            async with VerifierClient((found[0].url,), token="t", **settings) as client:
                return [await client.verify("multiple_choice", ITEM, "text") for _ in range(times)]

    return asyncio.run(run()), services[0]


def refused(handler: Handler, error: type[Exception], message: str, **settings: Any) -> Service:
    """Asking raises `error`; the service that was asked."""
    services: list[Service] = []

    async def run() -> None:
        async with serving(handler) as found:
            services.extend(found)
            async with VerifierClient((found[0].url,), token="t", **settings) as client:
                with pytest.raises(error, match=message):
                    await client.verify("multiple_choice", ITEM, "text")

    asyncio.run(run())
    return services[0]


def right() -> web.Response:
    return verdict_reply(graded(True))


def test_a_verdict_comes_back_whole_and_a_wrong_answer_is_not_retried() -> None:
    wrong = graded(False, feedback="no", format_ok=True, answer="C")
    verdicts, service = ask(in_turn(lambda: verdict_reply(wrong)), retries=5, wait_s=50.0)
    assert verdicts == [wrong]
    (headers,), (asked,) = service.headers, service.asked
    assert headers["Authorization"] == "Bearer t"
    (item,) = asked["items"]
    assert item == {
        "id": "0",
        "verifier": "multiple_choice",
        "item_sha256": ITEM.sha256,
        "response": "text",
    }
    assert 160.0 < asked["deadline_s"] <= 170.0  # to wait, and the bound of the judging
    assert service.items == []


def test_a_judges_client_waits_as_long_as_the_items_tests_may_take(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-the-tests")
    item = Item({"tests": [{}] * 40})

    async def run() -> float:
        async with serving(in_turn(right)) as (service,):
            config = JudgeConfig(
                where="endpoints",
                endpoints=(service.url,),
                token_file=str(tmp_path / "token"),
                wait_s=5.0,
                code=CodeVerifierConfig(wall_s=100.0),
            )
            async with VerifierClient.of(config) as client:
                await client.verify("code", item, "")
            deadline: float = service.asked[0]["deadline_s"]
            return deadline

    assert 4000.0 < asyncio.run(run()) < 4100.0


INFRASTRUCTURE: dict[str, Answer] = {
    "connection": ConnectionError,
    "500": lambda: web.Response(status=500),
    "503": lambda: web.json_response({"detail": "stopping"}, status=503),
    "a proxy's page": lambda: web.Response(text="<html>"),
    "no results": lambda: web.json_response({"results": []}),
    "a list": lambda: web.json_response([]),
    "no verdict": lambda: web.json_response({"results": [{"id": "0", "verdict": {"reward": 1}}]}),
    "unavailable": lambda: failure_reply("unavailable"),
    "deadline": lambda: failure_reply("deadline"),
}


@pytest.mark.parametrize("broken", INFRASTRUCTURE.values(), ids=INFRASTRUCTURE.keys())
def test_infrastructure_is_retried_and_never_becomes_a_reward(broken: Answer) -> None:
    verdicts, service = ask(in_turn(broken, right), retries=1)
    assert [v.success for v in verdicts] == [True]
    assert len(service.asked) == 2
    service = refused(in_turn(broken), VerifierUnavailable, "gave up after 2 attempts", retries=1)
    assert len(service.asked) == 2


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda: web.json_response({"detail": "d"}, status=401), ConfigError, "token is wrong"),
        (lambda: web.Response(status=404), ConfigError, "HTTP 404"),
        (lambda: web.Response(status=422, text="unknown verifier"), ConfigError, "unknown verif"),
        (lambda: web.Response(status=413, text="too large"), BadItem, "too large"),
        (lambda: failure_reply("bad_item"), BadItem, "because"),
        (lambda: failure_reply("broken"), VerifierBroken, "because"),
    ],
)
def test_what_a_retry_would_not_mend_is_an_error_at_once(
    answer: Callable[[], web.Response], error: type[Exception], message: str
) -> None:
    assert len(refused(in_turn(answer), error, message, retries=5).asked) == 1


def full(retry_after: str) -> Callable[[], web.Response]:
    return lambda: web.json_response({}, status=429, headers={"Retry-After": retry_after})


def test_a_full_service_is_asked_again_for_as_long_as_one_may_wait_whatever_the_retries() -> None:
    handler = in_turn(*[full("0")] * 5, right)
    verdicts, service = ask(handler, retries=0, wait_s=60.0)
    assert [v.success for v in verdicts] == [True]
    assert len(service.asked) == 6
    deadlines = [asked["deadline_s"] for asked in service.asked]
    assert deadlines == sorted(deadlines, reverse=True)  # the time waited is not given twice
    service = refused(in_turn(full("30")), VerifierUnavailable, "no worker within 5 s", wait_s=5.0)
    assert len(service.asked) == 1  # a wait of 30 s would be longer than 5


def test_an_item_is_sent_when_the_service_lacks_it_and_once_for_all_who_wait() -> None:
    async def run() -> tuple[list[Verdict], Service]:
        services: list[Service] = []

        async def handler(request: web.Request) -> web.StreamResponse:
            (one,) = (await request.json())["items"]
            lacks = not any(Item(i).sha256 == one["item_sha256"] for i in services[0].items)
            return failure_reply("unknown_item") if lacks else right()

        async with serving(handler) as found:
            services.extend(found)
            async with VerifierClient((services[0].url,), token="t") as client:
                asked = (client.verify("v", Item({"a": 1}), str(n)) for n in range(8))
                return await asyncio.gather(*asked), services[0]

    verdicts, service = asyncio.run(run())
    assert [v.success for v in verdicts] == [True] * 8
    assert service.items == [{"a": 1}]


def test_an_item_is_written_twice_however_many_attempts_it_has() -> None:
    """Once to name it, once to send it; an item of 1 MB costs milliseconds each time."""

    class Counting(Item):
        written = 0

        def json(self) -> bytes:
            self.written += 1
            return super().json()

    item = Counting({"bulk": "x" * 2**20})

    async def run() -> int:
        sent: list[int] = []

        async def handler(request: web.Request) -> web.StreamResponse:
            sent.append(request.content_length or 0)
            return right() if service.items else failure_reply("unknown_item")

        async with serving(handler) as (service,):
            async with VerifierClient((service.url,), token="t") as client:
                for n in range(10):
                    await client.verify("v", item, str(n))
            assert service.items == [item.data]
        return max(sent)

    assert asyncio.run(run()) < 1000
    assert item.written == 2


def test_a_service_that_forgets_at_once_is_unavailable_and_one_that_names_wrongly_unfit() -> None:
    forgets = in_turn(lambda: failure_reply("unknown_item"))
    refused(forgets, VerifierUnavailable, "does not keep the item")

    async def run() -> None:
        async def misnames(request: web.Request) -> web.StreamResponse:
            return web.json_response({"sha256": "0" * 64})

        async with serving(forgets) as (service,):
            service.keep = misnames  # type: ignore[method-assign]
            app = web.Application(client_max_size=2**24)
            app.router.add_post("/v1/verify", service.verify)
            app.router.add_post("/v1/items", misnames)
            async with TestServer(app) as server:
                url = str(server.make_url("")).rstrip("/")
                async with VerifierClient((url,), token="t") as client:
                    with pytest.raises(ConfigError, match="write items differently"):
                        await client.verify("v", ITEM, "")

    asyncio.run(run())


def test_silence_is_waited_out_while_the_service_lives_and_not_a_moment_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow but right program is not lost; a service that hangs is noticed."""
    monkeypatch.setattr(clients, "SILENCE_S", 0.1)
    alive = True

    async def run() -> None:
        nonlocal alive

        async def slow(request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(0.6)
            return right()

        async def healthz(request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(0.0 if alive else 60.0)
            return web.Response()

        app = web.Application()
        app.router.add_post("/v1/verify", slow)
        app.router.add_get("/healthz", healthz)
        async with TestServer(app) as server:
            url = str(server.make_url("")).rstrip("/")
            async with VerifierClient((url,), token="t", retries=0) as client:
                assert (await client.verify("v", ITEM, "")).success
                alive = False
                with pytest.raises(VerifierUnavailable):
                    await client.verify("v", ITEM, "")

    asyncio.run(run())


def test_a_dead_endpoint_is_passed_over_while_another_lives() -> None:
    async def run() -> tuple[list[Verdict], list[Service]]:
        async with serving(in_turn(ConnectionError), in_turn(right)) as services:
            urls = tuple(service.url for service in services)
            async with VerifierClient(urls, token="t", retries=3) as client:
                return [await client.verify("v", ITEM, "") for _ in range(40)], services

    verdicts, (dead, living) = asyncio.run(run())
    assert [v.success for v in verdicts] == [True] * 40
    assert len(living.asked) == 40
    assert 1 <= len(dead.asked) <= 5  # asked again only after its time on the bench


def test_load_goes_to_the_endpoint_with_fewest_outstanding() -> None:
    async def run() -> Counter[str]:
        gate = asyncio.Event()

        async def stuck(request: web.Request) -> web.StreamResponse:
            await gate.wait()
            return right()

        async with serving(stuck, in_turn(right)) as services:
            urls = tuple(service.url for service in services)
            async with VerifierClient(urls, token=None) as client:
                first = [asyncio.create_task(client.verify("v", ITEM, "")) for _ in range(2)]
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                for _ in range(10):
                    await client.verify("v", ITEM, "")
                gate.set()
                await asyncio.gather(*first)
            names = zip(("busy", "free"), services, strict=True)
            return Counter({name: len(service.asked) for name, service in names})

    assert asyncio.run(run()) == {"busy": 1, "free": 11}  # the busy one gets nothing more


def test_the_waits_between_tries_double_and_are_drawn() -> None:
    waits = [[delay_s(attempt) for _ in range(300)] for attempt in (1, 2, 3, 30)]
    for bound, drawn in zip((0.2, 0.4, 0.8, 10.0), waits, strict=True):
        assert 0.0 <= min(drawn) < 0.1 * bound < 0.9 * bound < max(drawn) <= bound


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


def test_the_board_counts_requests_by_endpoint_and_outcome() -> None:
    board, failures = Board(), []
    busy = web.json_response({"detail": "busy"}, status=429, headers={"Retry-After": "0"})
    _, service = ask(
        in_turn(ConnectionError, lambda: web.Response(status=500), lambda: busy, right),
        retries=2,
        board=board,
        failed=lambda: failures.append(1),
    )
    counted = {
        outcome: board.value(VERIFY_CLIENT_REQUESTS.name, endpoint=service.url, outcome=outcome)
        for outcome in ("failed", "busy", "answered")
    }
    assert counted == {"failed": 2.0, "busy": 1.0, "answered": 1.0}
    assert len(failures) == 2
    page = {family.name: family for family in board.collect()}
    seconds = page[VERIFY_CLIENT_SECONDS.name].samples
    assert [s.value for s in seconds if s.name.endswith("_count")] == [4.0]
