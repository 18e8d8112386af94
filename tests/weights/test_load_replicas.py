"""One replica reads the files; the others get their parameters from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import ModelFileError
from tests.actor.worlds import tiny_model
from tests.distributed import run_ranks

pytestmark = pytest.mark.slow


def load_beside_nothing(rank: int, world: int, folder: str, tensor: int) -> tuple[list[Any], str]:
    """(parameters where only the first replica sees the folder, what all hear when it is gone)"""
    import torch

    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel
    from sdpo_megatron.weights.load import load_hf_weights
    from sdpo_megatron.weights.spec import ModelSpec

    spec, parallel = ModelSpec.from_folder(folder), ParallelConfig(tensor=tensor)
    init_model_parallel(parallel)
    chunks = build_model(spec, parallel, PrecisionConfig(dtype="fp32"))
    for param in chunks[0].parameters():
        torch.nn.init.constant_(param, 7.0)
    load_hf_weights(chunks, spec, folder if rank < tensor else "/nowhere")
    found = [param.detach().numpy().copy() for param in chunks[0].parameters()]
    try:
        load_hf_weights(chunks, spec, "/nowhere" if rank == 0 else folder)
    except ModelFileError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize(("world", "tensor"), [(2, 1), (4, 2)], ids=["DP2", "TP2 x DP2"])
def test_replicas_need_no_files(world: int, tensor: int, tmp_path: Path) -> None:
    model = (
        tiny_model(tmp_path / "model", family="qwen3_moe", tied=False)
        if tensor == 1
        else (tiny_model(tmp_path / "model"))
    )
    ranks = run_ranks(load_beside_nothing, world, str(model), tensor)
    for rank, (params, message) in enumerate(ranks):
        original = ranks[rank % tensor][0]
        assert all((a == b).all() for a, b in zip(params, original, strict=True))
        assert all((a != 7.0).any() for a in params)
        assert "/nowhere does not exist" in message
