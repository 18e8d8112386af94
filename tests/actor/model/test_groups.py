"""Every group of ranks waits as long as the run says, and no longer."""

from __future__ import annotations

import pytest

from tests.distributed import run_ranks


def patience(rank: int, world: int) -> dict[str, float]:
    """Seconds that a collective may take, by group."""
    import dataclasses

    import torch
    from megatron.core import parallel_state

    import sdpo_megatron.actor.runtime as runtimes
    from sdpo_megatron.actor.model.config import ParallelConfig
    from sdpo_megatron.actor.model.gpt import init_model_parallel

    runtimes._current = dataclasses.replace(runtimes.current_runtime(), timeout_s=4000.0)
    init_model_parallel(ParallelConfig(tensor=2))
    cpu = torch.device("cpu")
    groups = {
        "tensor": parallel_state.get_tensor_model_parallel_group(),
        "pipeline": parallel_state.get_pipeline_model_parallel_group(),
        "data": parallel_state.get_data_parallel_group(with_context_parallel=True),
        "expert": parallel_state.get_expert_model_parallel_group(),
        "expert data": parallel_state.get_expert_data_parallel_group(),
        "embedding": parallel_state.get_embedding_group(),
        "model": parallel_state.get_model_parallel_group(),
    }
    return {
        name: group._get_backend(cpu).options._timeout.total_seconds()
        for name, group in groups.items()
        if group is not None
    }


@pytest.mark.slow
def test_subgroups_have_the_run_s_patience_and_not_torch_s_ten_minutes() -> None:
    """Rounded up to whole minutes, which is what Megatron takes."""
    for found in run_ranks(patience, 2):
        assert len(found) == 7
        assert set(found.values()) == {4020.0}
