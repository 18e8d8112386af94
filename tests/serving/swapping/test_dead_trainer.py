"""A trainer rank dies in the middle of a swap: the engine serves nothing until it is reloaded."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.nouns import PolicyVersion
from serving.client import MIXED, EngineClient
from serving.completion import SamplingParams
from serving.launch import EngineProcess
from serving.pool import EnginePool
from tests.distributed import RankFailed, run_ranks
from tests.serving.span_check import worst_gap
from tests.serving.worlds import Job, publish, varied

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = (1, 40, 41, 42, 43)


def publish_and_die(rank: int, world: int, job: Job) -> Any:
    """As `publish`, but the second pipeline stage's rank dies before its first bucket."""
    from sdpo_megatron.weights.gather import StageGather

    if rank == 1:
        StageGather.buckets = lambda self, buffers=None: os._exit(9)  # type: ignore[method-assign]
    return publish(rank, world, job)


@pytest.mark.parametrize("transport", ["distributed", "tensor"])
def test_no_engine_serves_a_mix(
    transport: str, tiny_engine: EngineProcess, tiny_llama: Path, tmp_path: Path
) -> None:
    """The first stage's layers are in the engine, the second's never come."""
    new = varied(tiny_llama, tmp_path / "new", 1)
    config = replace(tiny_engine.config, urls=(tiny_engine.url,))
    job = Job([(1, transport, str(new))], config, str(tiny_llama), str(tmp_path), {"pipeline": 2})
    with pytest.raises(RankFailed, match="exit code 9"):
        run_ranks(publish_and_die, 2, job)

    async def afterwards() -> None:
        client = EngineClient(tiny_engine.url, replace(config, request_timeout_s=1.0))
        assert (await client.model_info())["weight_version"] == MIXED
        waiting = asyncio.ensure_future(client.generate(PROMPT, SamplingParams(max_new_tokens=8)))
        async with EnginePool(config, tiny_llama, tmp_path) as pool:
            await asyncio.wait([waiting])
            assert "no answer within 1 s" in str(waiting.exception())
            await pool.publish(new, PolicyVersion(2))
            completion = await pool.generate(PROMPT, SamplingParams(max_new_tokens=24))
        assert [span.version for span in completion.versions] == [2]
        assert worst_gap(PROMPT, [completion], {2: new}) < 1e-4
        await client.close()

    asyncio.run(afterwards())
