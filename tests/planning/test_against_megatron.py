"""The sheet's parameters are those that Megatron's ranks hold, and their optimisers own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpo_megatron.actor.model.config import ParallelConfig
from sdpo_megatron.planning.rank_share import parameters_on
from sdpo_megatron.weights.spec import ModelSpec
from tests.actor.worlds import make_actor, tiny_model
from tests.distributed import run_ranks

RANKS = 4
LAYOUTS = {
    "stages, a tied head": ("qwen3", True, ParallelConfig(pipeline=2)),
    "both, a head of its own": ("qwen3", False, ParallelConfig(tensor=2, pipeline=2)),
    "experts": ("qwen3_moe", False, ParallelConfig(tensor=2, sequence_parallel=True, expert=2)),
}


def held(rank: int, world: int, folder: str, parallel: ParallelConfig) -> tuple[int, int, int]:
    """(pipeline stage, parameters, master weights) of this rank."""
    from megatron.core import parallel_state

    actor = make_actor(folder, parallel=parallel)
    numbers = sum(param.numel() for chunk in actor.chunks for param in chunk.parameters())
    stage = parallel_state.get_pipeline_model_parallel_rank()
    return stage, numbers, actor.weights.numel()


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_rank_holds_what_the_sheet_says(tmp_path: Path, name: str) -> None:
    family, tied, parallel = LAYOUTS[name]
    folder = tiny_model(tmp_path / "model", family=family, tied=tied)
    spec = ModelSpec.from_folder(folder)
    expected = [parameters_on(spec, parallel, stage) for stage in range(parallel.pipeline)]
    ranks = run_ranks(held, RANKS, str(folder), parallel)
    for stage, numbers, _ in ranks:
        assert numbers == expected[stage].dense + expected[stage].expert
    # Each copy of the dense part, and each of the experts, is owned once.
    experts = RANKS // (parallel.pipeline * parallel.expert * parallel.expert_tensor)
    whole = sum(
        RANKS // parallel.pipeline * one.dense // (RANKS // parallel.model_ranks)
        + RANKS // parallel.pipeline * one.expert // experts
        for one in expected
    )
    assert sum(owned for _, _, owned in ranks) == whole
