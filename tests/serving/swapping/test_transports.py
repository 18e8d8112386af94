"""After a swap over each transport the engines' log-probs are Megatron's on the new weights.

From a trainer of TP 2 x PP 2 to two real engines at once, of tensor-parallel size 1 and 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving.client import EngineClient
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig
from serving.launch import EngineProcess
from tests.distributed import run_ranks
from tests.loops.test_engine_agrees import megatron_log_probs
from tests.serving.worlds import LAYOUT, Job, publish, varied

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = (1, 40, 41, 42, 43)
_OF_EXPERTS = {"sequence_parallel": True, "expert": 2, "expert_tensor": 1}
TRANSPORTS = ("distributed", "tensor", "disk")
CASES = [
    pytest.param(("llama", 1), id="llama-tp1"),
    pytest.param(("qwen3_moe", 2), id="qwen3_moe-tp2"),
    pytest.param(("llama", 2), id="llama-tp2", marks=pytest.mark.exhaustive),
    pytest.param(("qwen3", 1), id="qwen3-tp1", marks=pytest.mark.exhaustive),
    pytest.param(("qwen3", 2), id="qwen3-tp2", marks=pytest.mark.exhaustive),
    pytest.param(("qwen3_moe", 1), id="qwen3_moe-tp1", marks=pytest.mark.exhaustive),
]


@pytest.fixture(scope="module", params=CASES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[EngineProcess]]]:
    """A model, and two engines that serve it."""
    family, tp = request.param
    model = request.getfixturevalue(f"tiny_{family}")
    config = EngineConfig(
        device="cpu", dtype="float32", threads=1, tp=tp, max_total_tokens=4096, transport="disk"
    )
    logs = tmp_path_factory.mktemp("logs")
    engines = [EngineProcess(config, model, logs, index=index) for index in range(2)]
    try:
        for engine in engines:
            engine.launch()
        for engine in engines:
            engine.wait_ready()
        yield model, engines
    finally:
        for engine in engines:
            engine.stop()


def test_log_probs_after_swaps(case: tuple[Path, list[EngineProcess]], tmp_path: Path) -> None:
    model, engines = case
    config = replace(engines[0].config, urls=tuple(engine.url for engine in engines))
    folders = {kind: varied(model, tmp_path / kind, seed) for seed, kind in enumerate(TRANSPORTS)}
    for number, kind in enumerate(TRANSPORTS, start=1):
        job = Job(
            steps=[(number, kind, str(folders[kind]))],
            engine=config,
            source=str(model),
            out=str(tmp_path / "out"),
            layout=LAYOUT | (_OF_EXPERTS if "moe" in model.name else {}),
        )
        found = run_ranks(publish, 4, job)[0]
        assert found["failures"] == [{}, {}]
        for engine in engines:
            completions = asyncio.run(_sample(engine.url, config))
            said = [value for completion in completions for value in completion.log_probs]
            assert {s.version for c in completions for s in c.versions} == {number}
            asked = [(list(PROMPT), list(c.token_ids)) for c in completions]
            (found_there,) = run_ranks(megatron_log_probs, 1, str(folders[kind]), asked)
            ours = [value for log_probs in found_there for value in log_probs]
            gaps = [abs(a - b) for a, b in zip(ours, said, strict=True)]
            assert len(gaps) >= 24
            assert max(gaps) < 1e-4, (kind, engine.url, gaps)


async def _sample(url: str, config: EngineConfig) -> list[Completion]:
    client = EngineClient(url, config)
    sampling = SamplingParams(max_new_tokens=24)
    try:
        return [await client.generate(PROMPT, sampling) for _ in range(4)]
    finally:
        await client.close()
