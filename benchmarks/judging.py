"""What HTTP costs a verdict, what a large item costs its client, and what a dead service costs.

    python benchmarks/judging.py [--verdicts 300] [--out benchmarks/results/judging.json]

Everything runs on this machine, one verdict at a time on one kept connection. Methods take turns in
rounds, so that a busy machine slows all of them alike; what counts are the ratios within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from sdpo_megatron.judging.backend import Backend
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.local import LocalVerifiers
from sdpo_megatron.judging.pool import PoolConfig
from sdpo_megatron.judging.remote.client import VerifierClient
from sdpo_megatron.judging.remote.endpoints import Endpoint
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.tasks import TaskConfig, load_task
from sdpo_megatron.verifiers.code import CodeVerifierConfig

TOKEN = "a-token-of-the-benchmark"
ROUNDS = 4
MEBIBYTE = 2**20
Case = tuple[str, Item, Callable[[int], str]]


def letter(_: int) -> str:
    return "<answer>A</answer>"


def cases() -> dict[str, Case]:
    """A verdict of each cost: a letter, an expression, a program in the sandbox. Attempts differ,
    so that nothing is remembered."""
    program = load_task(TaskConfig(name="humaneval", ids=("53",))).questions[0]
    return {
        "multiple_choice": ("multiple_choice", Item({"answer": "A"}), letter),
        "mathematics": (
            "mathematics",
            Item({"answer": "3/7"}),
            lambda n: f"\\boxed{{\\frac{{{3 * n + 3}}}{{{7 * n + 7}}}}}",
        ),
        "code": ("code", Item(program.item), lambda n: f"    return x + y  # {n}"),
    }


async def rate(backend: Backend, case: Case, count: int) -> float:
    """Verdicts/s, one at a time."""
    start = time.perf_counter()
    verifier, item, response = case
    for n in range(count):
        await backend.verify(verifier, item, response(n))
    return count / (time.perf_counter() - start)


async def http_against_in_process(url: str, count: int) -> dict[str, Any]:
    """Verdicts/s in this process's pool and sandbox, over HTTP, and their ratio."""
    found: dict[str, Any] = {}
    local = LocalVerifiers(
        frozenset(cases()), PoolConfig(workers=1), SandboxConfig(workers=1), CodeVerifierConfig()
    )
    async with local, VerifierClient((url,), token=TOKEN, retries=5) as remote:
        for name, case in cases().items():
            each = max(10, count // (10 if name == "code" else 1) // ROUNDS)
            rates: dict[str, list[float]] = {"in_process": [], "http": []}
            for _ in range(ROUNDS):
                for label, backend in (("in_process", local), ("http", remote)):
                    await rate(backend, case, 2)
                    rates[label].append(await rate(backend, case, each))
            middle = {label: statistics.median(values) for label, values in rates.items()}
            found[name] = {
                **{f"{label}_per_s": round(value, 1) for label, value in middle.items()},
                "http_ms": round(1e3 / middle["http"] - 1e3 / middle["in_process"], 3),
                "ratio": round(middle["http"] / middle["in_process"], 3),
            }
    return found


async def cpu_ms(ask: Callable[[], Awaitable[Any]], count: int) -> float:
    """Milliseconds of this process's CPU time for one call."""
    await ask()
    start = time.process_time()
    for _ in range(count):
        await ask()
    return 1e3 * (time.process_time() - start) / count


async def large_item(url: str, count: int) -> dict[str, Any]:
    """Client CPU per verdict with an item of 1 MiB: sent with every attempt, and named."""
    item = Item({"answer": "A", "tests": ["x" * 1000] * (MEBIBYTE // 1000)})
    found: dict[str, list[float]] = {"sent": [], "named": []}
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        VerifierClient((url,), token=TOKEN, retries=5) as client,
    ):

        async def sent() -> None:
            one = {"id": "0", "verifier": "multiple_choice", "item": dict(item.data)}
            one["response"] = letter(0)
            body = json.dumps({"items": [one], "deadline_s": 100.0}).encode()
            async with session.post(f"{url}/v1/verify", data=io.BytesIO(body)) as reply:
                assert (await reply.json())["results"][0]["verdict"]["success"]

        async def named() -> None:
            assert (await client.verify("multiple_choice", item, letter(0))).success

        for _ in range(ROUNDS):
            found["sent"].append(await cpu_ms(sent, max(5, count // 20)))
            found["named"].append(await cpu_ms(named, max(5, count // 20)))
    middle = {name: statistics.median(values) for name, values in found.items()}
    return {
        **{f"{name}_cpu_ms": round(value, 3) for name, value in middle.items()},
        "ratio": round(middle["sent"] / middle["named"], 1),
    }


async def dead_endpoint(url: str, count: int) -> dict[str, Any]:
    """Seconds a verdict with one living service and one that does not answer, which is passed over
    for a while after it failed, and not."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    case = cases()["multiple_choice"]
    passed_over = Endpoint.failed
    found: dict[str, float] = {}
    for name, failed in (("passed_over", passed_over), ("asked_again", lambda endpoint: None)):
        Endpoint.failed = failed  # type: ignore[assignment, method-assign]
        async with VerifierClient((dead, url), token=TOKEN, retries=50) as client:
            found[f"{name}_ms"] = round(1e3 / await rate(client, case, max(10, count // 5)), 2)
    Endpoint.failed = passed_over  # type: ignore[method-assign]
    return {**found, "ratio": round(found["asked_again_ms"] / found["passed_over_ms"], 1)}


class Service:
    """`sdpo verify serve` in a process of its own, for the length of a ``with`` block."""

    def __enter__(self) -> str:
        command = [sys.executable, "-m", "sdpo_megatron.cli", "verify", "serve"]
        command += ["host=127.0.0.1", "port=0", "workers=1"]
        environment = {**os.environ, "SDPO_VERIFIER_TOKEN": TOKEN}
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # verifier service on http://host:port, ...
        return line.split(" on ")[1].partition(",")[0]

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


async def until_ready(url: str) -> None:
    """Wait for the service's workers."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/readyz") as reply:
                if reply.status == 200:
                    return
            await asyncio.sleep(0.05)


async def measure(url: str, count: int) -> dict[str, Any]:
    """All three."""
    await until_ready(url)
    return {
        "http_against_in_process": await http_against_in_process(url, count),
        "item_of_1_mib": await large_item(url, count),
        "one_of_two_endpoints_dead": await dead_endpoint(url, count),
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
    }


def main() -> None:
    """Print, and with --out write, what was measured."""
    parser = argparse.ArgumentParser(description="What HTTP costs a verdict.")
    parser.add_argument("--verdicts", type=int, default=300)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with Service() as url:
        found = asyncio.run(measure(url, arguments.verdicts))
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
