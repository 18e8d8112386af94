"""Batches with a hostile attempt of every kind, judged here and over HTTP: each gets what a plainly
wrong one gets in its place, and the honest ones beside it what they deserve."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sdpo_megatron.judging.config import JudgeConfig
from sdpo_megatron.judging.judge import open_judge
from sdpo_megatron.judging.service.app import create_app
from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.nouns import Question, Verdict
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.tasks import Task
from sdpo_megatron.verifiers.code import CodeVerifierConfig
from tests.verifiers.code.hostile import (
    FUNCTION_ATTACKS,
    FUNCTION_ITEM,
    STDIN_ATTACKS,
    STDIN_ITEM,
)
from tests.verifiers.code.items import SUM_ITEM

TOKEN = "a-token-of-the-tests"
CODE = CodeVerifierConfig(cpu_s=1.0, wall_s=5.0)
FUNCTION = ("def total(xs): return sum(xs)", "def total(xs): return None")
PROGRAM = ("print(sum(map(int, input().split())))", "print('wrong')")


@pytest.mark.slow
def test_a_judged_batch_with_every_kind_of_hostile_attempt() -> None:
    layouts = (
        (SUM_ITEM, FUNCTION, FUNCTION_ATTACKS),
        (FUNCTION_ITEM, FUNCTION, FUNCTION_ATTACKS),
        (STDIN_ITEM, PROGRAM, STDIN_ATTACKS),
    )
    for item, (right, wrong), attacks in layouts:
        hostile = _judged(item, [right, wrong, *attacks.values(), right])
        plain = _judged(item, [right, wrong, *[wrong] * len(attacks), right])
        assert [v.reward for v in hostile] == [v.reward for v in plain]
        assert [v.success for v in hostile] == [True, *[False] * (len(attacks) + 1), True]
        assert all(verdict.feedback for verdict in hostile[1:-1])


def _judged(item: dict[str, Any], texts: list[str]) -> list[Verdict]:
    question = Question(id="q", task="own", messages=(), item=item)
    task = Task(name="own", questions=(question,), verifier_name="code", path=Path("own.jsonl"))

    async def run() -> list[Verdict]:
        config = JudgeConfig(code=CODE, retries=0)
        async with open_judge(config, SandboxConfig(workers=2), task, pytest.fail) as judge:
            return await asyncio.gather(*(judge(question, text) for text in texts))

    return asyncio.run(run())


def test_the_forging_program_over_http() -> None:
    """One request with hostile attempts in all layouts and honest ones between them."""
    config = ServiceConfig(verifiers=("code",), workers=2, code=CODE)
    forging = (
        "the serving module's functions replaced by passed",
        "answer: passed",
        "answer: a line of 4999 digits",
        "value: a set of colliding hashes",
        "value: an integer of 100000 digits",
    )
    items: list[dict[str, Any]] = []
    for item, (right, _), attacks in (
        ({**SUM_ITEM, "public": [0, 1]}, FUNCTION, [FUNCTION_ATTACKS[name] for name in forging]),
        (FUNCTION_ITEM, FUNCTION, [FUNCTION_ATTACKS[name] for name in forging]),
        (
            STDIN_ITEM,
            PROGRAM,
            [STDIN_ATTACKS["stating passed"], STDIN_ATTACKS["stating many digits"]],
        ),
    ):
        for number, text in enumerate([right, *attacks, right]):
            items.append(
                {
                    "id": f"{len(items)}-{'right' if text == right else number}",
                    "verifier": "code",
                    "item": item,
                    "response": text,
                }
            )
    with TestClient(create_app(config, TOKEN)) as client:
        reply = client.post(
            "/v1/verify", json={"items": items}, headers={"Authorization": f"Bearer {TOKEN}"}
        )
    assert reply.status_code == 200
    for result in reply.json()["results"]:
        assert result["failure"] is None, result
        assert result["verdict"]["reward"] == float(result["id"].endswith("right")), result
