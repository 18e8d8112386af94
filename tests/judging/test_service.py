"""The service in this process: tokens, limits, items, deadlines, how item failures look."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.judging.bearer_token import read_token
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.service.app import create_app
from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.judging.service.serve import serve

OBEYS = "tests.judging.own_verifiers:Obeys"
TOKEN = "a-token-of-the-tests"
CONFIG = ServiceConfig(
    verifiers=("multiple_choice", "mathematics", OBEYS),
    workers=1,
    max_batch=8,
    queue_size=8,
    max_body_mib=3,
    item_cache_mib=1,
    memory_mib=1024,
)
RIGHT = {
    "id": "a",
    "verifier": "multiple_choice",
    "item": {"answer": "B"},
    "response": "<answer>B</answer>",
}


@pytest.fixture(scope="module")
def service() -> Iterator[TestClient]:
    with TestClient(create_app(CONFIG, TOKEN)) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client


def post(service: TestClient, *items: dict[str, Any], **rest: Any) -> Any:
    headers = rest.pop("headers", {})
    return service.post("/v1/verify", json={"items": [*items], **rest}, headers=headers)


def obey(what: str, answer: str | None = None) -> dict[str, Any]:
    item = {} if answer is None else {"answer": answer}
    return {"id": what, "verifier": OBEYS, "item": item, "response": what}


def test_results_come_in_the_order_of_the_items_each_with_its_own_verdict(
    service: TestClient,
) -> None:
    wrong = {**RIGHT, "id": "b", "response": "<answer>C</answer>"}
    reply = post(service, RIGHT, wrong, {**RIGHT, "id": "c", "response": "I do not know."})
    assert reply.status_code == 200
    results = reply.json()["results"]
    assert [r["id"] for r in results] == ["a", "b", "c"]
    assert [r["verdict"]["reward"] for r in results] == [1.0, 0.0, 0.0]
    assert [r["verdict"]["format_ok"] for r in results] == [True, True, False]
    assert [r["failure"] for r in results] == [None] * 3


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"bearer {TOKEN}", f"Bearer {TOKEN} ", f"Basic {TOKEN}", TOKEN],
)
@pytest.mark.parametrize("body", [b"", b"{", b'{"items": []}', None])
def test_no_token_no_answer_whatever_is_asked(
    service: TestClient, authorization: str | None, body: bytes | None
) -> None:
    request = service.build_request("POST", "/v1/verify", content=body, json=None)
    if body is None:
        request = service.build_request("POST", "/v1/verify", json={"items": [RIGHT]})
    del request.headers["Authorization"]
    if authorization is not None:
        request.headers["Authorization"] = authorization
    reply = service.send(request)
    assert reply.status_code == 401
    assert reply.json() == {"detail": "a valid bearer token is required"}
    assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_health_and_metrics_need_no_token_and_hold_no_answer(service: TestClient) -> None:
    post(service, {**RIGHT, "item": {"answer": "B", "secret": "xyzzy"}})
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        reply = service.get(path, headers={"Authorization": ""})
        assert reply.status_code == 200
        assert "xyzzy" not in reply.text
        assert "<answer>" not in reply.text


def test_metrics_count_verdicts_by_outcome(service: TestClient) -> None:
    def count(outcome: str) -> float:
        name = f'sdpo_verifier_verdicts_total{{outcome="{outcome}",verifier="multiple_choice"}} '
        lines = service.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = [count(o) for o in ("success", "wrong", "unreadable")]
    wrong = {**RIGHT, "response": "<answer>C</answer>"}
    post(service, RIGHT, RIGHT, wrong, {**RIGHT, "response": "?"})
    after = [count(o) for o in ("success", "wrong", "unreadable")]
    assert [a - b for a, b in zip(after, before, strict=True)] == [2, 1, 1]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"items": [{**RIGHT, "verifier": "os:system"}]}, "body.items.0.verifier"),
        ({"items": [{**RIGHT, "surplus": 1}]}, "body.items.0.surplus"),
        ({"items": []}, "body.items"),
        ({"items": [RIGHT] * 9}, "body.items"),
        ({"items": [RIGHT], "deadline_s": 0}, "body.deadline_s"),
        ({"items": [{**RIGHT, "response": None}]}, "body.items.0.response"),
        ([], "body"),
    ],
)
def test_a_body_that_is_no_batch_is_refused_and_named(
    service: TestClient, body: Any, complaint: str
) -> None:
    reply = service.post("/v1/verify", json=body)
    assert reply.status_code == 422
    assert complaint in reply.json()["detail"]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "", None])
@pytest.mark.parametrize(
    "body", [b"{", b"", b" ", b"nul", b"\xff", b"[" * 10**6, b'{"items": ' + b"9" * 5000 + b"}"]
)
@pytest.mark.parametrize("path", ["/v1/verify", "/v1/items"])
def test_what_is_no_json_is_400_whatever_it_is_called(
    service: TestClient, path: str, body: bytes, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    reply = service.post(path, content=body, headers=headers)
    assert reply.status_code == 400, reply.text
    assert set(reply.json()) == {"detail"}


@pytest.mark.parametrize("body", ["null", "3", '"text"', "[]", '{"items": 3}'])
def test_what_is_json_but_no_batch_is_422(service: TestClient, body: str) -> None:
    assert service.post("/v1/verify", content=body.encode()).status_code == 422


def test_a_body_beyond_the_limit_is_refused(service: TestClient) -> None:
    assert post(service, {**RIGHT, "response": "x" * 3 * 2**20}).status_code == 413


def test_half_a_surrogate_pair_is_text_like_any_other(service: TestClient) -> None:
    body = b'{"items":[{"id":"a","verifier":"multiple_choice","item":{"answer":"A"},'
    body += b'"response":"\\ud800<answer>A</answer>"}]}'
    reply = service.post("/v1/verify", content=body, headers={"Content-Type": "application/json"})
    (result,) = reply.json()["results"]
    assert (result["id"], result["verdict"]["success"]) == ("a", True)


def test_failures_of_items_say_whose_mistake_they_are(service: TestClient) -> None:
    no_item = {**RIGHT, "id": "no item", "item": {}}
    results = post(service, no_item, obey("raise"), obey("die"), RIGHT).json()["results"]
    reasons = [r["failure"] and r["failure"]["reason"] for r in results]
    assert reasons == ["bad_item", "broken", "unavailable", None]
    assert all((r["verdict"] is None) == (r["failure"] is not None) for r in results)


def test_an_item_past_its_deadline_is_a_failure_not_a_wrong_answer(service: TestClient) -> None:
    reply = post(service, obey("sleep 60"), obey("fine"), deadline_s=1.0)
    failures = [r["failure"] for r in reply.json()["results"]]
    assert [f["reason"] for f in failures] == ["deadline", "deadline"]


def named(item: dict[str, Any], response: str) -> dict[str, Any]:
    """A line that names its item instead of bringing it."""
    name = Item(item).sha256
    return {"id": "a", "verifier": OBEYS, "item_sha256": name, "response": response}


def test_an_item_is_sent_once_and_named_after_that(service: TestClient) -> None:
    item = {"answer": "yes", "n": 1}
    (result,) = post(service, named(item, "yes")).json()["results"]
    assert result["failure"]["reason"] == "unknown_item"
    reply = service.post("/v1/items", content=b'{ "n": 1,\n"answer": "\\u0079es" }')
    assert reply.json() == {"sha256": Item(item).sha256}  # of the content, not of the bytes
    lines = [named(item, "yes"), named(item, "no"), named({"answer": "no", "n": 1}, "no")]
    results = post(service, *lines).json()["results"]
    assert [r["verdict"] and r["verdict"]["success"] for r in results] == [True, False, None]
    assert results[2]["failure"]["reason"] == "unknown_item"


def test_an_item_that_others_displaced_is_unknown_and_taken_again(service: TestClient) -> None:
    def of(letter: str) -> dict[str, str]:
        return {"answer": "yes", "bulk": letter * 400_000}  # two of them fit into 1 MiB

    def known(letter: str) -> bool:
        return post(service, named(of(letter), "yes")).json()["results"][0]["verdict"] is not None

    for letter in "abc":
        assert service.post("/v1/items", json=of(letter)).status_code == 200
    assert [known(letter) for letter in "abc"] == [False, True, True]
    assert service.post("/v1/items", json=of("a")).status_code == 200
    assert [known(letter) for letter in "abc"] == [True, False, True]
    assert "sdpo_verifier_item_cache_bytes 8000" in service.get("/metrics").text


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ({"item_sha256": "f" * 64}, 200),
        ({"item_sha256": "f" * 63}, 422),
        ({"item_sha256": "F" * 64}, 422),
        ({"item_sha256": "f" * 64, "item": {}}, 422),
        ({}, 422),
    ],
)
def test_a_line_names_an_item_or_brings_it(
    service: TestClient, line: dict[str, Any], status: int
) -> None:
    reply = post(service, {"id": "a", "verifier": OBEYS, "response": "", **line})
    assert reply.status_code == status
    if status == 200:
        assert reply.json()["results"][0]["failure"]["reason"] == "unknown_item"


def test_an_item_that_never_fits_is_refused(service: TestClient) -> None:
    reply = service.post("/v1/items", json={"bulk": "x" * 2**20})
    assert reply.status_code == 413
    assert "at most 1048576 are kept" in reply.json()["detail"]
    for body in ("[]", "3", "null"):
        assert service.post("/v1/items", content=body.encode()).status_code == 422


HOSTILE = {
    "nothing": "",
    "open brackets": "[" * 2**20,
    "open braces": '{"a":' * 200_000,
    "deep JSON, closed": "[" * 5000 + "]" * 5000,
    "deep LaTeX": "\\boxed{" + "\\frac{" * 20_000,
    "deep parentheses": "\\boxed{" + "(" * 100_000 + ")" * 100_000 + "}",
    "NaN": "\\boxed{NaN} #### nan",
    "infinity": "<answer>Infinity</answer> #### 1e999",
    "a tower of powers": "\\boxed{9^{9^{9^{9^{9^9}}}}}",
    "a factorial": "\\boxed{99999999!}",
    "a long number": "\\boxed{" + "9" * 100_000 + "}",
    "surrogates": "<answer>\ud800\udfff\udc00</answer>",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85\u2028\u202e",
    "null bytes": "\x00" * 10_000,
    "tags": "<answer>" * 50_000,
    "a tool call of brackets": "Action: f\nAction Input: " + "{" * 50_000,
    "JSON that is not": '<tool_call>{"name": NaN, "arguments": Infinity}</tool_call>',
    "colliding numbers": str([2**61 - 1] * 20_000),
    "think": "<think>" * 50_000 + "</think>" * 10,
    "fences": "```python\n" * 20_000 + "~~~" * 1000,
    "format": "{0.__class__}%s%n{}" * 1000,
}
ITEMS: dict[str, dict[str, Any]] = {
    "multiple_choice": {"answer": "B"},
    "mathematics": {"answer": "18"},
    "tool_use": {"calls": [{"name": "f", "arguments": {"a": [1]}}]},
    "instruction_following": {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
}


@pytest.fixture(scope="module")
def hostile_service() -> Iterator[TestClient]:
    config = ServiceConfig(verifiers=tuple(ITEMS), workers=2, cpu_limit_s=5)
    with TestClient(create_app(config, None)) as client:
        yield client


@pytest.mark.parametrize("verifier", ITEMS)
def test_whatever_responses_hold_a_batch_has_each_ones_own_verdict(
    hostile_service: TestClient, verifier: str
) -> None:
    items = [
        {"id": name, "verifier": verifier, "item": ITEMS[verifier], "response": text}
        for name, text in HOSTILE.items()
    ]
    content = json.dumps({"items": items}).encode()  # ASCII: surrogates are no UTF-8
    reply = hostile_service.post("/v1/verify", content=content)
    assert reply.status_code == 200
    results = reply.json()["results"]
    assert [r["id"] for r in results] == list(HOSTILE)
    assert [(r["id"], r["failure"]) for r in results] == [(name, None) for name in HOSTILE]
    if verifier != "instruction_following":  # where a text without a comma is right
        assert [r["id"] for r in results if r["verdict"]["reward"] > 0.0] == []


def test_a_full_queue_says_when_to_come_again_and_recovers(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, queue_size=2, max_batch=2)
    waiting = obey(f"wait-for {tmp_path / 'go'}")
    with TestClient(create_app(config, None)) as client:
        replies: list[Any] = []
        slow = threading.Thread(target=lambda: replies.append(post(client, waiting, waiting)))
        slow.start()
        while client.get("/readyz").status_code == 200:
            time.sleep(0.01)
        refused = post(client, obey("fine"))
        assert refused.status_code == 429
        assert refused.json() == {"detail": "the queue is full"}
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        (tmp_path / "go").touch()
        slow.join()
        assert replies[0].status_code == 200
        assert post(client, obey("fine")).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_what_cannot_be_judged_in_time_is_refused_at_the_door() -> None:
    """Slow items, each a request, many at once: they are not accepted to expire in the queue."""
    config = dataclasses.replace(CONFIG, workers=4, queue_size=1024)
    with TestClient(create_app(config, None)) as client:

        def slow(_: int) -> Any:
            return post(client, obey("sleep 0.2"), deadline_s=2.0)

        assert slow(0).status_code == 200  # how long one takes is known now
        with ThreadPoolExecutor(64) as callers:
            replies = list(callers.map(slow, range(300)))
    assert {reply.status_code for reply in replies} == {200, 429}
    refused = [reply for reply in replies if reply.status_code == 429]
    assert all(int(reply.headers["Retry-After"]) >= 1 for reply in refused)
    results = [r.json()["results"][0] for r in replies if r.status_code == 200]
    assert len(results) >= 4
    late = [r for r in results if r["failure"] is not None]
    assert len(late) <= len(results) // 4, late  # a mean is no promise on a busy machine


def test_without_a_token_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SDPO_VERIFIER_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="no bearer token: set token_file"):
        serve(CONFIG)


def test_anonymous_answers_are_for_loopback_only() -> None:
    with pytest.raises(ConfigError, match="needs a loopback host"):
        ServiceConfig(allow_anonymous=True)
    assert ServiceConfig(allow_anonymous=True, host="127.0.0.1").allow_anonymous
    with pytest.raises(ConfigError, match="a full batch could never be accepted"):
        ServiceConfig(max_batch=10, queue_size=9)


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setenv("SDPO_VERIFIER_TOKEN", TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(dataclasses.replace(CONFIG, host="127.0.0.1", port=port))


def test_tokens_come_from_the_file_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-the-file-0123456789\n")
    environment = {"SDPO_VERIFIER_TOKEN": "from-the-environment-0123"}
    assert read_token(str(file), environment) == "from-the-file-0123456789"
    assert read_token(None, environment) == "from-the-environment-0123"
    assert read_token(None, {}) is None
    file.write_text("short")
    with pytest.raises(ConfigError, match="at least 16 printable ASCII"):
        read_token(str(file), environment)
    with pytest.raises(ConfigError, match="cannot read"):
        read_token(str(tmp_path / "missing"), environment)
