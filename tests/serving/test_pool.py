"""The pool over real engines: a death in the middle of a rollout goes unnoticed by who asked."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sdpo_megatron.errors import EngineDiedError
from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.observability.board import Board
from serving.completion import SamplingParams
from serving.config import EngineConfig
from serving.pool import EnginePool
from tests.serving.processes import running_with

PROMPT = (1, 40, 41, 42, 43)


def _tagged(tag: str, **changes: Any) -> EngineConfig:
    """One thread of a small engine, all processes of which can be found by `tag`."""
    plain = EngineConfig(device="cpu", dtype="float32", threads=1, max_total_tokens=8192)
    return replace(plain, extra_env=(f"TAG={tag}",), **changes)


def test_unreachable_url_is_named(tmp_path: Path) -> None:
    config = EngineConfig(urls=("http://127.0.0.1:9/",), start_timeout_s=0.3)
    pool = EnginePool(config, "unused", tmp_path)

    async def find() -> None:
        async with pool:
            pass

    with pytest.raises(
        EngineDiedError,
        match=r"after 0.3 s:\n.*http://127.0.0.1:9/model_info: .*Does an engine listen there",
    ):
        asyncio.run(find())


@pytest.mark.slow
@pytest.mark.timeout(900)  # several start-ups; minutes on a busy machine
def test_engine_that_dies_or_hangs_in_a_rollout_comes_back_at_the_current_version(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """First the whole engine is killed, then its scheduler is frozen; no request notices."""
    tag = f"pool-test-{uuid.uuid4()}"
    config = _tagged(tag, health_interval_s=1.0, health_timeout_s=10.0)
    heard: list[str] = []
    pool = EnginePool(config, tiny_llama, tmp_path, progress=heard.append)

    async def rollout_with(disturb: Callable[[], None]) -> None:
        sampling = SamplingParams(max_new_tokens=300)
        requests = [asyncio.create_task(pool.generate(PROMPT, sampling)) for _ in range(4)]
        while pool.engines[0].in_flight < 4:
            await asyncio.sleep(0.01)
        disturb()
        completions = await asyncio.gather(*requests)
        assert all([s.version for s in completion.versions] == [3] for completion in completions)

    def freeze_scheduler() -> None:
        for pid in running_with(tag):
            if b"scheduler" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGSTOP)

    async def main() -> None:
        async with pool:
            await pool.publish(tiny_llama, PolicyVersion(3))
            await rollout_with(lambda: _kill_engine(pool, tag))
            assert pool.num_restarts == 1
            await rollout_with(freeze_scheduler)
            assert pool.num_restarts == 2

    asyncio.run(main())
    assert "leaves the pool" in "".join(heard)
    assert "it is up but generates nothing" in "".join(heard)
    assert "serving policy version 3" in heard[-1]
    assert running_with(tag) == []


@pytest.mark.slow
def test_engine_that_cannot_come_back_is_an_error_with_the_reason(
    tiny_llama: Path, tmp_path: Path
) -> None:
    tag = f"pool-test-{uuid.uuid4()}"
    config = _tagged(tag, max_restarts=1, stop_timeout_s=0.5)
    pool = EnginePool(config, tiny_llama, tmp_path)
    process = pool.engines[0].process
    assert process is not None

    async def ask() -> None:
        async with pool:
            process.config = replace(config, start_timeout_s=0.5)  # too little for the restart
            _kill_engine(pool, tag)
            await pool.generate(PROMPT, SamplingParams(max_new_tokens=4))

    with pytest.raises(
        EngineDiedError, match=r"no inference engine is left(?s:.*)start_timeout_s = 0.5"
    ):
        asyncio.run(ask())
    assert running_with(tag) == []


def _kill_engine(pool: EnginePool, tag: str) -> None:
    for pid in running_with(tag):
        if pid != pool.engines[0].process.pid:  # type: ignore[union-attr]
            os.kill(pid, signal.SIGKILL)


def test_an_engines_counters_are_there_before_anything_fails() -> None:
    """The first failure must be an increase: it raises an alert."""
    board = Board()
    one = SimpleNamespace(state="ready", serves=True, label="engine-0", in_flight=0)
    EnginePool._show_engines(cast(EnginePool, SimpleNamespace(engines=[one], board=board)))
    shown = {sample.name: sample for family in board.collect() for sample in family.samples}
    for counter in ("engine_exits", "engine_rejoins", "swap_failures"):
        assert shown[f"sdpo_{counter}_total"].labels["engine"] == "engine-0"
        assert shown[f"sdpo_{counter}_total"].value == 0.0
