"""Swaps over several engines when some of them, the disk or the trainer fail: who serves what then.

Stand-ins for engines, since what is tested is whom the pool waits for, pauses, reloads and resumes;
test_faults.py does it to real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdpo_megatron.errors import SwapError
from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.observability.board import Board
from serving import recovery
from serving.client import MIXED
from serving.completion import SamplingParams
from serving.config import EngineConfig
from serving.pool import EnginePool
from serving.swapping.swap_config import SwapConfig
from serving.swapping.swap_target import SwapFailure
from tests.serving.stand_in import HASH, StandIn

QUICK = SwapConfig(late_after_s=0.2, deadline_s=20.0)
Use = Callable[[EnginePool, list[StandIn]], Awaitable[None]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "URL_RETRY_S", 0.02)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "v1"
    folder.mkdir()
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def _with_pool(tmp_path: Path, count: int, use: Use, swap: SwapConfig = QUICK) -> Board:
    """Run `use` with that many engines in a pool."""
    board = Board()

    async def main() -> None:
        engines = [StandIn() for _ in range(count)]
        for engine in engines:
            await engine.start()
        config = EngineConfig(
            urls=tuple(engine.url for engine in engines), swap=swap, health_interval_s=0.0
        )
        async with EnginePool(config, "unused", tmp_path, board=board) as pool:
            await use(pool, engines)
        for engine in engines:
            await engine.stop()

    asyncio.run(main())
    return board


async def _all_serve(pool: EnginePool, engines: Sequence[StandIn], version: int) -> None:
    """Wait until each is in the pool and calls its weights so."""
    while len(pool.ready) < len(engines):
        await asyncio.sleep(0.01)
    assert [engine.version for engine in engines] == [str(version)] * len(engines)
    assert not any(engine.paused for engine in engines)


def test_the_order_of_a_swap_and_that_its_weights_have_no_name_meanwhile(
    tmp_path: Path, weights: Path
) -> None:
    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        (engine,) = engines
        engine.asked.clear()
        target = await pool.begin(1)
        assert [served.url for served in target.engines] == [engine.url]
        assert (engine.paused, engine.version) == (True, MIXED)
        assert pool.version.number == 0
        await pool.finish(PolicyVersion(1, HASH), weights)
        assert (engine.paused, engine.version) == (False, "1")
        assert engine.asked == [
            "/pause_generation", "/update_weight_version", "/begin_weight_update",
            "/end_weight_update", "/weights_checker", "/update_weight_version",
            "/continue_generation",
        ]  # fmt: skip

    _with_pool(tmp_path, 1, use)


def test_no_checksum_where_nobody_compares_it(tmp_path: Path, weights: Path) -> None:
    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        await pool.begin(1)
        await pool.finish(PolicyVersion(1), weights)
        assert "/weights_checker" not in engines[0].asked

    _with_pool(tmp_path, 1, use)


@pytest.mark.parametrize("path", ["/pause_generation", "/begin_weight_update", "/weights_checker"])
def test_an_engine_that_hangs_holds_nobody_up_and_comes_back_from_disk(
    path: str, tmp_path: Path, weights: Path
) -> None:
    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        good, hung = engines
        hung.hang.add(path)
        await pool.begin(1)
        await pool.finish(PolicyVersion(1, HASH), weights)
        assert [engine.name for engine in pool.ready] == [good.url]
        assert (good.version, good.paused) == ("1", False)
        assert hung.version != "1"
        hung.hang.clear()
        await _all_serve(pool, engines, 1)
        assert "/update_weights_from_disk" in hung.asked
        assert "/update_weights_from_disk" not in good.asked

    _with_pool(tmp_path, 2, use)


def test_one_that_hangs_while_it_comes_back_holds_no_swap_up(tmp_path: Path, weights: Path) -> None:
    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        good, hung = engines
        hung.hang.add("/update_weights_from_disk")
        await pool.begin(1)
        await pool.finish(
            PolicyVersion(1, HASH), weights, failures={hung.url: SwapFailure("broken pipe")}
        )
        while "/update_weights_from_disk" not in hung.asked:
            await asyncio.sleep(0.01)
        for number in (2, 3):
            await pool.begin(number)
            await pool.finish(PolicyVersion(number, HASH), weights)
            assert good.version == str(number)

    _with_pool(tmp_path, 2, use)


def test_all_fail_the_stream_and_all_reload_from_disk(tmp_path: Path, weights: Path) -> None:
    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        target = await pool.begin(1)
        failures = {served.url: SwapFailure("no broadcast") for served in target.engines}
        await pool.finish(PolicyVersion(1, HASH), weights, failures=failures)
        await _all_serve(pool, engines, 1)

    _with_pool(tmp_path, 2, use)


def test_wrong_bits_are_never_named_nor_served(tmp_path: Path, weights: Path) -> None:
    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        good, wrong = engines
        wrong.checksum = "1" * 64
        await pool.begin(1)
        await pool.finish(PolicyVersion(1, HASH), weights)
        assert [engine.name for engine in pool.ready] == [good.url]
        assert wrong.named == [MIXED] * len(wrong.named)
        assert wrong.paused
        wrong.checksum = HASH
        await _all_serve(pool, engines, 1)

    _with_pool(tmp_path, 2, use)


def test_without_the_trainer_s_checksum_the_majority_is_right(
    tmp_path: Path, weights: Path
) -> None:
    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        engines[1].checksum = "1" * 64
        await pool.begin(1)
        await pool.finish(PolicyVersion(1), weights)
        assert {engine.name for engine in pool.ready} == {engines[0].url, engines[2].url}

    _with_pool(tmp_path, 3, use)


def test_no_quorum_before_the_deadline_ends_the_swap_with_the_reasons(
    tmp_path: Path, weights: Path
) -> None:
    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        for engine in engines[:2]:
            engine.checksum = "1" * 64
        await pool.begin(1)
        with pytest.raises(SwapError, match=r"1 engines serve it(?s:.*)asks for 2(?s:.*)checksum"):
            await pool.finish(PolicyVersion(1, HASH), weights)

    _with_pool(tmp_path, 3, use, replace(QUICK, deadline_s=1.0))


def test_a_folder_that_is_written_behind_the_swap_is_waited_for(
    tmp_path: Path, weights: Path
) -> None:
    later = tmp_path / "v2"

    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        target = await pool.begin(2)
        finishing = asyncio.ensure_future(
            pool.finish(
                PolicyVersion(2, HASH),
                later,
                failures={target.engines[0].url: SwapFailure("broken pipe")},
            )
        )
        await asyncio.sleep(0.1)
        assert not finishing.done()
        weights.rename(later)
        await finishing
        await _all_serve(pool, engines, 2)

    _with_pool(tmp_path, 1, use)


def test_what_a_dead_trainer_left_is_reloaded_before_it_serves(
    tmp_path: Path, weights: Path
) -> None:
    """It died after begin: the next trainer's pool finds paused engines with weights of no name."""

    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        await pool.begin(1)
        async with EnginePool(pool.config, "unused", tmp_path) as second:
            assert [(e.paused, e.version) for e in engines] == [(True, MIXED)] * 2
            asked = asyncio.ensure_future(second.generate([1], SamplingParams(max_new_tokens=1)))
            await second.publish(weights, PolicyVersion(5, HASH))
            await _all_serve(second, engines, 5)
            assert [span.version for span in (await asked).versions] == [5]

    _with_pool(tmp_path, 2, use)


def test_wait_lets_requests_end_on_the_old_weights(tmp_path: Path, weights: Path) -> None:
    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        (engine,) = engines
        engine.seconds_a_request = 0.2
        sampling = SamplingParams(max_new_tokens=1)
        running = asyncio.ensure_future(pool.generate([1], sampling))
        while "/generate" not in engine.asked:
            await asyncio.sleep(0.005)
        beginning = asyncio.ensure_future(pool.begin(1))
        while not pool.roster.holding:
            await asyncio.sleep(0)
        held = asyncio.ensure_future(pool.generate([2], sampling))
        await beginning
        assert running.done()
        await pool.finish(PolicyVersion(1, HASH), weights)
        spans = [[s.version for s in (await task).versions] for task in (running, held)]
        assert spans == [[0], [1]]

    _with_pool(tmp_path, 1, use, replace(QUICK, in_flight="wait"))


def test_states_are_shown(tmp_path: Path, weights: Path) -> None:
    seen = {}

    async def use(pool: EnginePool, engines: list[StandIn]) -> None:
        list(pool.board.collect())
        label = engines[0].url
        await pool.begin(1)
        list(pool.board.collect())
        seen["updating"] = pool.board.value("sdpo_engine_state", engine=label, state="updating")
        await pool.finish(PolicyVersion(1, HASH), weights)
        list(pool.board.collect())
        seen["ready"] = pool.board.value("sdpo_engine_state", engine=label, state="ready")
        seen["version"] = pool.board.value("sdpo_engine_policy_version", engine=label)

    _with_pool(tmp_path, 1, use)
    assert seen == {"updating": 1.0, "ready": 1.0, "version": 1.0}
