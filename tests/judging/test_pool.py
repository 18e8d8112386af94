"""What ends a job decides what is said of it: the fault of response, infrastructure or task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError, VerifierBroken, VerifierUnavailable
from sdpo_megatron.judging import pool as pools
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.pool import PoolConfig, VerifierPool
from sdpo_megatron.nouns import Verdict
from sdpo_megatron.verifiers.base import BadItem

OBEYS = "tests.judging.own_verifiers:Obeys"


def in_pool(use: Callable[[VerifierPool], Coroutine[Any, Any, Any]], **limits: Any) -> Any:
    """Run `use(pool)` with a pool of one child unless told otherwise."""

    async def run() -> Any:
        async with VerifierPool(PoolConfig(**{"workers": 1, "memory_mib": 1024, **limits})) as pool:
            return await use(pool)

    return asyncio.run(run())


def judge(response: str, **limits: Any) -> Verdict:
    verdict: Verdict = in_pool(lambda pool: pool.verify(OBEYS, Item({}), response), **limits)
    return verdict


def test_a_verdict_comes_back_with_its_time_and_details() -> None:
    verdict = judge("sleep 0.05")
    assert verdict.success
    assert verdict.reward == 1.0
    assert 0.05 <= verdict.seconds < 60
    assert verdict.details["pid"] > 0


def test_what_a_verifier_prints_does_not_break_the_reply() -> None:
    assert judge("print").success


def test_cpu_time_beyond_the_limit_is_a_wrong_answer_even_inside_one_c_call() -> None:
    verdict = judge("spin", cpu_limit_s=1)
    assert (verdict.success, verdict.reward, verdict.format_ok) == (False, 0.0, False)
    assert verdict.details["error"] == "cpu_limit"
    assert "more than 1 s" in verdict.feedback


def test_memory_beyond_the_limit_is_a_wrong_answer() -> None:
    verdict = judge("grow")
    assert not verdict.success
    assert verdict.details["error"] == "memory_limit"


def test_a_hung_child_is_infrastructure_and_the_next_job_gets_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "pool_wall_s", lambda cpu_limit_s: 2.0)

    async def use(pool: VerifierPool) -> Verdict:
        with pytest.raises(VerifierUnavailable, match="no reply after"):
            await pool.verify(OBEYS, Item({}), "sleep 600")
        return await pool.verify(OBEYS, Item({}), "fine")

    assert in_pool(use).success


def test_a_killed_child_is_infrastructure_and_the_next_job_gets_a_new_one() -> None:
    async def use(pool: VerifierPool) -> Verdict:
        with pytest.raises(VerifierUnavailable, match="ended with code -9"):
            await pool.verify(OBEYS, Item({}), "die")
        return await pool.verify(OBEYS, Item({}), "fine")

    assert in_pool(use).success


def test_a_verifier_that_raises_is_named_and_the_child_lives_on() -> None:
    async def use(pool: VerifierPool) -> tuple[Verdict, Verdict]:
        first = await pool.verify(OBEYS, Item({}), "fine")
        with pytest.raises(VerifierBroken, match="Obeys: RuntimeError: no such luck"):
            await pool.verify(OBEYS, Item({}), "raise")
        return first, await pool.verify(OBEYS, Item({}), "fine")

    first, second = in_pool(use)
    assert first.details["pid"] == second.details["pid"]


@pytest.mark.parametrize("what", ["reward 2", "reward nan", "details", "nothing"])
def test_what_is_no_verdict_is_the_verifiers_mistake_and_the_child_lives_on(what: str) -> None:
    async def use(pool: VerifierPool) -> tuple[Verdict, Verdict]:
        first = await pool.verify(OBEYS, Item({}), "fine")
        with pytest.raises(VerifierBroken, match="own_verifiers:Obeys"):
            await pool.verify(OBEYS, Item({}), what)
        return first, await pool.verify(OBEYS, Item({}), "fine")

    first, second = in_pool(use)
    assert first.details["pid"] == second.details["pid"]


def test_a_bad_item_and_an_unknown_verifier_are_the_callers_mistakes() -> None:
    async def use(pool: VerifierPool) -> None:
        with pytest.raises(BadItem, match="no key 'answer'"):
            await pool.verify("multiple_choice", Item({}), "<answer>A</answer>")
        with pytest.raises(ConfigError, match="unknown verifier 'multiple_chioce'"):
            await pool.verify("multiple_chioce", Item({}), "")
        with pytest.raises(ConfigError, match="cannot import"):
            await pool.verify("tests.judging.own_verifiers:Missing", Item({}), "")

    in_pool(use)


def test_a_cancelled_job_never_answers_for_the_next(tmp_path: Path) -> None:
    """The first is cancelled in the middle of its judging; its reply, "wrong", comes later."""
    begun, go = tmp_path / "begun", tmp_path / "go"

    async def use(pool: VerifierPool) -> Verdict:
        job = asyncio.create_task(
            pool.verify(OBEYS, Item({"answer": "wrong"}), f"begin-and-wait {begun} {go}")
        )
        while not begun.exists():
            await asyncio.sleep(0.01)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        go.touch()
        return await pool.verify(OBEYS, Item({"answer": "next"}), "next")

    assert in_pool(use).success


def test_a_verdict_beyond_the_pipes_limit_is_the_verifiers_mistake() -> None:
    async def use(pool: VerifierPool) -> Verdict:
        with pytest.raises(VerifierBroken, match="longer than 16777216 bytes"):
            await pool.verify(OBEYS, Item({}), "long")
        return await pool.verify(OBEYS, Item({}), "fine")

    assert in_pool(use).success


def test_many_jobs_share_few_children_and_keep_their_own_verdicts() -> None:
    async def use(pool: VerifierPool) -> list[Verdict]:
        jobs = (pool.verify(OBEYS, Item({"answer": str(n - n % 3)}), str(n)) for n in range(60))
        return await asyncio.gather(*jobs)

    verdicts = in_pool(use, workers=2)
    assert [v.success for v in verdicts] == [n % 3 == 0 for n in range(60)]
    assert len({v.details["pid"] for v in verdicts}) <= 2


def test_any_text_survives_the_pipe(tmp_path: Path) -> None:
    texts = ["\ud800 lone surrogate", "line\nbreak\r\n\x85\u2028", "\x00\x1b[2J", "ü" * 100_000]

    async def use(pool: VerifierPool) -> list[Verdict]:
        return [await pool.verify(OBEYS, Item({"answer": text}), text) for text in texts]

    assert all(v.success for v in in_pool(use))


def test_a_limit_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="workers=0: must be at least 1"):
        PoolConfig(workers=0)
