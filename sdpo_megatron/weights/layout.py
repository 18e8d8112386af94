"""Where this rank stands, asked of Megatron, and which parameter tensors it holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdpo_megatron.weights.mapping import Param, Position, local_name, params
from sdpo_megatron.weights.spec import ModelSpec

Chunks = Sequence[torch.nn.Module]
"""The model chunks of a rank, DDP-wrapped or not."""


def current_position() -> Position:
    """This rank's position; needs Megatron's parallel state."""
    from megatron.core import parallel_state as ps

    return Position(
        tp=ps.get_tensor_model_parallel_rank(),
        tp_size=ps.get_tensor_model_parallel_world_size(),
        pp=ps.get_pipeline_model_parallel_rank(),
        pp_size=ps.get_pipeline_model_parallel_world_size(),
        ep=ps.get_expert_model_parallel_rank(),
        ep_size=ps.get_expert_model_parallel_world_size(),
        etp=ps.get_expert_tensor_parallel_rank(),
        etp_size=ps.get_expert_tensor_parallel_world_size(),
    )


def holds_first_copy() -> tuple[bool, bool]:
    """Whether (dense parameters, expert parameters) of this rank are the first copies."""
    from megatron.core import parallel_state as ps

    return (
        ps.get_data_parallel_rank(with_context_parallel=True) == 0,
        ps.get_expert_data_parallel_rank() == 0,
    )


def local_params(
    chunks: Chunks, spec: ModelSpec, at: Position
) -> list[tuple[Param, torch.nn.Parameter]]:
    """This rank's parameters paired with the mapping, in bucket order.

    Raises:
        AssertionError: The model and the mapping disagree in names or shapes (a bug, never the
            user's files).
    """
    assert len(chunks) == 1, "interleaved pipelines are not mapped"
    held = {local_name(name): tensor for name, tensor in chunks[0].named_parameters()}
    mapped = {param.name: param for param in params(spec, at)}
    assert held.keys() == mapped.keys(), (
        f"unmapped parameters: {sorted(held.keys() ^ mapped.keys())}"
    )
    for name, param in mapped.items():
        assert tuple(held[name].shape) == param.shape, (
            f"{name}: {tuple(held[name].shape)} != {param.shape}"
        )
    return [(param, held[name]) for name, param in mapped.items()]
