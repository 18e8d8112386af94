"""The service as a process: drains on SIGTERM; killing it 20 times under load loses nothing."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.remote.client import VerifierClient
from sdpo_megatron.nouns import Verdict
from tests.judging.service_process import TOKEN, ServiceProcess, free_port, running_service

OBEYS = "tests.judging.own_verifiers:Obeys"
KILLS, SERVICE_WORKERS, CLIENT_WORKERS = 20, 4, 24
VERDICTS_BETWEEN_KILLS = 12  # fewer than are in flight: every kill cuts work off
ITEMS_A_ROUND = 96

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def test_sigterm_lets_accepted_items_finish_and_ends_with_0(tmp_path: Path) -> None:
    with running_service(tmp_path / "log", f"verifiers=[{OBEYS}]", "workers=1") as service:
        wait = f"wait-for {tmp_path / 'go'}"
        items = [{"id": str(n), "verifier": OBEYS, "item": {}, "response": wait} for n in range(2)]
        replies: list[httpx.Response] = []

        def ask() -> None:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            url = f"{service.url}/v1/verify"
            replies.append(httpx.post(url, json={"items": items}, headers=headers, timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        while "sdpo_verifier_queue_items 2.0" not in httpx.get(f"{service.url}/metrics").text:
            time.sleep(0.02)
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        while ready(service.url):
            time.sleep(0.02)
        assert service.process.poll() is None  # it takes no more, and still has work
        (tmp_path / "go").touch()
        assert service.process.wait(60) == 0
        asking.join()
        assert [r["verdict"]["success"] for r in replies[0].json()["results"]] == [True, True]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{service.url}/readyz")


def test_500_half_open_connections_delay_nobody_and_are_gone_in_time(tmp_path: Path) -> None:
    """With a token and without one, in the head and in the body."""
    with running_service(tmp_path / "log", f"verifiers=[{OBEYS}]", "header_timeout_s=3") as service:
        head = "POST /v1/verify HTTP/1.1\r\nHost: x\r\n"
        token = f"Authorization: Bearer {TOKEN}\r\n"
        halves = [
            *("", head, head + token, head + "Content-Length: 9\r\n\r\n"),
            head + token + "Content-Length: 9\r\n\r\n1234",
        ]
        address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
        held = []
        for n in range(500):
            connection = socket.create_connection(address, timeout=60)
            connection.sendall(halves[n % len(halves)].encode())
            held.append(connection)
        with httpx.Client(base_url=service.url, trust_env=False, timeout=60) as client:
            for _ in range(5):
                assert client.get("/healthz").status_code == 200
            delay = client.get("/healthz").elapsed.total_seconds()
            print(f"/healthz beside 500 half-open connections: {delay * 1000:.0f} ms")
        for connection in held:  # each ends by itself, or this test by its time limit
            while connection.recv(65536):
                pass
            connection.close()
        assert ready(service.url)


def test_a_restart_in_between_costs_the_items_and_no_verdict(tmp_path: Path) -> None:
    item = Item({"answer": "yes", "bulk": "x" * 2**20})

    async def judge(client: VerifierClient) -> bool:
        return (await client.verify(OBEYS, item, "yes")).success

    async def run(service: ServiceProcess) -> list[bool]:
        async with VerifierClient((service.url,), token=TOKEN, retries=20) as client:
            before = await judge(client)
            service.kill()
            await asyncio.to_thread(service.start)
            return [before, await judge(client), await judge(client)]

    with running_service(tmp_path / "log", f"verifiers=[{OBEYS}]") as service:
        assert asyncio.run(run(service)) == [True] * 3
        metrics = httpx.get(f"{service.url}/metrics", trust_env=False).text
        (kept,) = re.findall(r"^sdpo_verifier_item_cache_bytes (\S+)$", metrics, re.MULTILINE)
        assert float(kept) == len(item.json())


def test_a_service_without_its_isolation_raises_and_says_what_is_missing() -> None:
    code = (
        "import sys; from sdpo_megatron.sandbox import SandboxConfig\n"
        "from sdpo_megatron.judging.service.serve import serve\n"
        "from sdpo_megatron.judging.service.config import ServiceConfig\n"
        "from sdpo_megatron.errors import SandboxRefused\n"
        "lacking = SandboxConfig(minimum_layers=('net',), disable_layers=('net',))\n"
        "try:\n    serve(ServiceConfig(host='127.0.0.1', port=0, sandbox=lacking))\n"
        "except SandboxRefused as error:\n    print(error); sys.exit(2)\n"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "SDPO_VERIFIER_TOKEN": TOKEN}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "isolation below the configured minimum" in done.stdout


@dataclass(frozen=True)
class Case:
    """An item, a response, and the reward that is right for it."""

    number: int
    verifier: str
    item: dict[str, Any]
    response: str
    reward: float


def cases(count: int) -> list[Case]:
    made = []
    item: dict[str, Any]
    for n in range(count):
        if n % 3 == 0:
            verifier, item, right = "multiple_choice", {"answer": "B"}, "<answer>B</answer>"
            wrong = "<answer>C</answer>"
        elif n % 3 == 1:
            verifier, item = "mathematics", {"answer": f"{n}/7"}
            right, wrong = f"\\boxed{{\\frac{{{n}}}{{7}}}}", "\\boxed{\\frac{1}{1000003}}"
        else:
            verifier = "code"
            item = {
                "kind": "humaneval",
                "prompt": 'def add(x, y):\n    """Add."""\n',
                "entry_point": "add",
                "test": f"def check(candidate):\n    assert candidate({n}, 1) == {n + 1}\n",
                "public": [0],
            }
            right, wrong = "    return x + y", "    return x - y"
        is_right = n % 2 == 0
        made.append(Case(n, verifier, item, right if is_right else wrong, float(is_right)))
    return made


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def killing(
    service: ServiceProcess, got: list[tuple[Case, Verdict]], stop: threading.Event
) -> list[psutil.Process]:
    """SIGKILL the service under load, start it again, `KILLS` times; returns every child it had."""
    children: list[psutil.Process] = []
    try:
        for _ in range(KILLS):
            before = len(got)
            while len(got) < before + VERDICTS_BETWEEN_KILLS and not stop.is_set():
                time.sleep(0.01)
            assert service.process is not None
            children += descendants(service.process.pid)
            service.kill()
            service.start()
    finally:
        stop.set()
    return children


async def load(url: str, got: list[tuple[Case, Verdict]], stop: threading.Event) -> None:
    """Keep `CLIENT_WORKERS` items in flight until `stop`; put every (item, verdict) into `got`."""
    slots = asyncio.Semaphore(CLIENT_WORKERS)
    # So many tries, because a start takes many seconds on a busy machine.
    async with VerifierClient((url,), token=TOKEN, wait_s=600.0, retries=2000) as client:
        while not stop.is_set():

            async def one(case: Case) -> None:
                async with slots:
                    got.append(
                        (case, await client.verify(case.verifier, Item(case.item), case.response))
                    )

            await asyncio.gather(*(one(case) for case in cases(ITEMS_A_ROUND)))


def test_killed_20_times_under_load_every_item_gets_exactly_one_right_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdpo_megatron.judging.retry.MAX_DELAY_S", 0.5)  # minutes less of waiting
    service = ServiceProcess(free_port(), tmp_path / "log", f"workers={SERVICE_WORKERS}")
    service.start()
    stop = threading.Event()
    got: list[tuple[Case, Verdict]] = []
    children: list[psutil.Process] = []
    killer = threading.Thread(target=lambda: children.extend(killing(service, got, stop)))
    try:
        killer.start()
        asyncio.run(load(service.url, got, stop))
    finally:
        stop.set()
        killer.join()
        service.kill()
    assert len(children) >= KILLS  # it had workers each time it was killed
    assert len(got) >= KILLS * VERDICTS_BETWEEN_KILLS
    counts = [0] * ITEMS_A_ROUND
    for case, verdict in got:
        counts[case.number] += 1
        assert verdict.reward == case.reward, (case, verdict)
    assert counts == [len(got) // ITEMS_A_ROUND] * ITEMS_A_ROUND  # each item of each round, once
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []  # no worker or program outlives its service
    print(f"{KILLS} kills, {len(got)} items, all right")
