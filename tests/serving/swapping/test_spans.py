"""A request that runs through two swaps: its spans, and that each came from its own weights."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sdpo_megatron.nouns import PolicyVersion
from serving.client import EngineClient
from serving.completion import Completion, SamplingParams
from serving.launch import EngineProcess
from serving.swapping.hot_swap import swap
from tests.serving.span_check import worst_gap
from tests.serving.worlds import varied

pytestmark = pytest.mark.slow
PROMPT = (1, 40, 41, 42, 43)
LONG = 900


def test_a_long_request_spans_two_swaps(
    tiny_engine: EngineProcess, tiny_llama: Path, tmp_path: Path
) -> None:
    folders = {
        0: tiny_llama,
        1: varied(tiny_llama, tmp_path / "v1", 1),
        2: varied(tiny_llama, tmp_path / "v2", 2),
    }

    async def main() -> list[Completion]:
        client = EngineClient(tiny_engine.url, tiny_engine.config)
        try:
            assert not await swap([client], tiny_llama, PolicyVersion(0))
            requests = [
                asyncio.create_task(
                    client.generate(PROMPT, SamplingParams(max_new_tokens=LONG, seed=seed))
                )
                for seed in range(8)
            ]
            for version in (1, 2):
                await _progress(client)
                assert not await swap([client], folders[version], PolicyVersion(version))
            return list(await asyncio.gather(*requests))
        finally:
            await client.close()

    completions = asyncio.run(main())
    spans = [[span.version for span in completion.versions] for completion in completions]
    assert [0, 1, 2] in spans, spans
    for completion in completions:
        assert [completion.versions[0].start, completion.versions[-1].end] == [
            0,
            len(completion.token_ids),
        ]
    assert worst_gap(PROMPT, completions, folders) < 1e-4


async def _progress(client: EngineClient) -> None:
    """Wait until the running requests have got some tokens further."""
    before = await _tokens(client)
    while await _tokens(client) < before + 40:
        await asyncio.sleep(0.01)


async def _tokens(client: EngineClient) -> int:
    load = await client._call("GET", "/v1/loads", None, 10.0)
    return sum(rank["num_total_tokens"] for rank in load["loads"])
