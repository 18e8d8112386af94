"""The service in this process: tokens, limits, idempotency, deadlines, how item failures look."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.judging.service.config import ServiceConfig, read_token
from sdpo_megatron.judging.service.service import create_app, serve
from sdpo_megatron.sandbox import SandboxConfig

OBEYS = "tests.judging.own_verifiers:Obeys"
TOKEN = "a-token-of-the-tests"
CONFIG = ServiceConfig(
    verifiers=("multiple_choice", "mathematics", OBEYS),
    workers=1,
    max_batch=8,
    queue_size=8,
    max_body_bytes=20_000,
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
    with TestClient(create_app(CONFIG, SandboxConfig(), TOKEN)) as client:
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
    reply = post(service, RIGHT, wrong, {**RIGHT, "id": "c", "response": "B"})
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


def test_a_body_beyond_the_limit_is_refused(service: TestClient) -> None:
    assert post(service, {**RIGHT, "response": "x" * 20_000}).status_code == 413


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


def test_a_repeated_request_is_answered_from_memory_and_judged_once(service: TestClient) -> None:
    headers = {"Idempotency-Key": "once"}
    first = post(service, obey("fine"), headers=headers)
    second = post(service, obey("fine"), headers=headers)
    assert first.content == second.content  # the seconds too: it was not judged again
    other = post(service, obey("other"), headers=headers)
    assert other.status_code == 409
    again = post(service, obey("fine"), headers={"Idempotency-Key": "twice"})
    assert again.content != first.content


def test_a_failure_that_may_pass_is_not_kept(service: TestClient, tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "dies"}
    job = obey("die")
    assert post(service, job, headers=headers).json()["results"][0]["failure"] is not None
    key_is_free = post(service, obey("fine"), headers=headers)
    assert key_is_free.json()["results"][0]["verdict"]["success"] is True


def test_a_full_queue_says_when_to_come_again_and_recovers(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, queue_size=2, max_batch=2)
    waiting = obey(f"wait-for {tmp_path / 'go'}")
    with TestClient(create_app(config, SandboxConfig(), None)) as client:
        replies: list[Any] = []
        slow = threading.Thread(target=lambda: replies.append(post(client, waiting, waiting)))
        slow.start()
        while client.get("/readyz").status_code == 200:
            time.sleep(0.01)
        refused = post(client, obey("fine"))
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        (tmp_path / "go").touch()
        slow.join()
        assert replies[0].status_code == 200
        assert post(client, obey("fine")).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_without_a_token_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SDPO_VERIFIER_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"no bearer token: set service\.token_file"):
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
