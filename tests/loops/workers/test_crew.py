"""Leases and receipts through a real worker process: order, deaths, versions, sums."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sdpo_megatron.errors import WorkerDied
from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.rollout.config import SamplingConfig
from sdpo_megatron.rollout.group_file import read_samples
from tests.loops.workers.crews import publish, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_killed_worker_costs_its_groups_a_second_try_and_nothing_else(
    tiny_llama: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        async with scene(tiny_llama, tmp_path) as here:
            await publish(here, 0, tiny_llama)
            first = await here.crew.next_batch(1, 0)
            assert [(g.lease.position, g.lease.number, g.attempts) for g in first] == [
                (0, 0, 3), (1, 0, 3),
            ]  # fmt: skip
            await publish(here, 1, tiny_llama)
            here.engine.gate.clear()
            waiting = asyncio.ensure_future(here.crew.next_batch(2, 1))
            asked = here.engine.asked
            await here.until(lambda: here.engine.asked == asked + 6)
            assert here.book.sums()["leased"] == 2
            family = psutil.Process(here.worker_pid()).children(recursive=True)
            os.kill(here.worker_pid(), signal.SIGKILL)
            await here.until(lambda: here.book.sums()["waiting"] == 2)
            assert here.pool.engines[0].in_flight == 0
            here.engine.gate.set()
            second = await waiting
            assert [(g.lease.position, g.lease.number) for g in second] == [(2, 1), (3, 1)]
            assert {g.oldest_version for g in second} == {1}
            assert here.book.returned == {"worker_died": 2}
            assert here.board.value("sdpo_worker_exits_total", worker="worker-0") == 1
            assert here.crew.restarts == 1
            _, left = psutil.wait_procs(family, timeout=20)
            assert left == []  # its verifiers went with it
            assert [p.name for p in sorted((tmp_path / "rollouts/groups").glob("*.bin"))] == [
                "000000000-000.bin", "000000001-000.bin", "000000002-001.bin", "000000003-001.bin",
            ]  # fmt: skip
            sums = await here.crew.collect(
                here.questions[:2], PolicyVersion(1), 7, SamplingConfig(num_attempts=2),
                lambda: None,
            )  # fmt: skip
            assert [one["attempts"] for one in sums] == [2, 2]
            assert here.book.planned == 4

    asyncio.run(main())


def test_generation_runs_ahead_and_what_a_swap_interrupts_goes_on(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """max_staleness 1: two batches at first, one more with each version; spans stay with tokens."""

    async def main() -> None:
        async with scene(tiny_llama, tmp_path, "rollout.max_staleness=1") as here:
            await publish(here, 0, tiny_llama)
            first = await here.crew.next_batch(1, 0)
            await here.until(lambda: here.book.num("committed") == 2)
            assert here.book.planned == 4  # (1 + 0 + 1) x 2, and not one more
            here.engine.gate.clear()
            asked = here.engine.asked
            await publish(here, 1, tiny_llama)  # groups 4 and 5 begin with version 1
            await here.until(lambda: here.engine.asked == asked + 6)
            second = await here.crew.next_batch(2, 1)  # made while version 0 was trained on
            assert [g.oldest_version for g in (*first, *second)] == [0] * 4
            await publish(here, 2, tiny_llama)
            here.engine.gate.set()
            await here.until(lambda: here.book.num("committed") == 4)  # 6 may be done before 5
            third = await here.crew.next_batch(3, 2)
            assert [g.lease.position for g in third] == [4, 5]
            folder = tmp_path / "rollouts/groups"
            spans = {
                tuple((s.start, s.end, s.version) for s in sample.versions)
                for group in third
                for sample in read_samples(folder / group.file)
            }
            assert spans == {((0, 1, 1), (1, 2, 2))}
            assert third[0].notes["sums"]["of_several_versions"] == 3

    asyncio.run(main())


def test_a_group_that_could_only_be_too_old_is_given_up_at_once_and_made_up_for(
    tiny_llama: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        async with scene(
            tiny_llama, tmp_path, "rollout.max_staleness=1", "rollout.sampling.concurrency=2",
        ) as here:  # fmt: skip
            here.engine.gate.clear()
            await publish(here, 0, tiny_llama)
            await here.until(lambda: here.engine.asked == 2)  # of group 0; the others wait for it
            await publish(here, 1, tiny_llama)
            await publish(here, 2, tiny_llama)
            await here.until(lambda: here.book.dropped == {"stale": 1})
            here.engine.gate.set()
            batch = await here.crew.next_batch(3 - 2, 2)
            assert {g.lease.position for g in batch} < {1, 2, 3, 4}
            assert all(g.oldest_version == 2 for g in batch)

    asyncio.run(main())


def test_a_lease_that_runs_out_is_given_out_again(tiny_llama: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with scene(tiny_llama, tmp_path, "rollout.workers.lease_timeout_s=1.5") as here:
            here.engine.gate.clear()
            await publish(here, 0, tiny_llama)
            waiting = asyncio.ensure_future(here.crew.next_batch(1, 0))
            await here.until(lambda: here.book.returned["expired"] >= 2)
            here.engine.gate.set()
            batch = await waiting
            assert [g.lease.position for g in batch] == [0, 1]
            assert all(g.lease.number >= 1 for g in batch)
            assert here.book.planned == 2

    asyncio.run(main())


def test_a_worker_that_is_stopped_is_noticed_and_replaced(tiny_llama: Path, tmp_path: Path) -> None:
    """SIGSTOP: its socket stays open, and nothing comes."""

    async def main() -> None:
        overrides = ("rollout.workers.silence_timeout_s=6", "rollout.workers.stop_timeout_s=0.5")
        async with scene(tiny_llama, tmp_path, *overrides) as here:
            here.engine.gate.clear()
            await publish(here, 0, tiny_llama)
            waiting = asyncio.ensure_future(here.crew.next_batch(1, 0))
            await here.until(lambda: here.engine.asked == 6)
            os.kill(here.worker_pid(), signal.SIGSTOP)
            await here.until(lambda: here.book.returned == {"worker_died": 2})
            here.engine.gate.set()
            assert [g.lease.number for g in await waiting] == [1, 1]
            assert any("it said nothing for 6 s" in text for text in here.heard)

    asyncio.run(main())


def test_a_worker_that_cannot_live_ends_the_run_with_the_reason(
    tiny_llama: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        async with scene(tiny_llama, tmp_path, "rollout.workers.max_restarts=0") as here:
            here.engine.gate.clear()
            await publish(here, 0, tiny_llama)
            waiting = asyncio.ensure_future(here.crew.next_batch(1, 0))
            await here.until(lambda: here.engine.asked == 6)
            os.kill(here.worker_pid(), signal.SIGKILL)
            with pytest.raises(
                WorkerDied, match=r"worker-0: it ended with status 137, and was rest"
            ):
                await waiting

    asyncio.run(main())


def test_groups_without_signal_are_replaced_up_to_the_limit(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """Two tokens are an even number: every attempt succeeds, and no sibling can be shown."""

    async def main() -> None:
        overrides = ("rollout.max_replaced=3", "rollout.teacher_prompt.use_solutions=true")
        overrides += ("objective=grpo",)
        async with scene(tiny_llama, tmp_path, *overrides) as here:
            await publish(here, 0, tiny_llama)
            batch = await here.crew.next_batch(1, 0)
            assert here.book.dropped == {"no_signal": 3}
            assert here.book.planned == 5
            assert len(batch) == 2

    asyncio.run(main())


def test_sampling_settings_of_a_validation_travel() -> None:
    sampling = replace(SamplingConfig(), temperature=0.6, num_attempts=16)
    from sdpo_megatron.fields.reading import build, to_plain

    assert build(SamplingConfig, to_plain(sampling)) == sampling
