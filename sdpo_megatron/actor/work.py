"""What a step amounts to: operations done, and how evenly the ranks worked."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdpo_megatron.actor.batches.packing import Role, prompt_of
from sdpo_megatron.actor.runtime import current_runtime
from sdpo_megatron.nouns import TrainSample
from sdpo_megatron.weights.flops import forward_flops
from sdpo_megatron.weights.spec import ModelSpec

BACKWARD = 2  # in forward passes


def pass_flops(spec: ModelSpec, samples: Sequence[TrainSample], role: Role) -> float:
    """Operations of one forward pass over the samples under the prompts of `role`."""
    return sum(
        # The last response token is predicted, but never fed.
        forward_flops(spec, len(prompt_of(s, role)) + len(s.response_ids) - 1, len(s.response_ids))
        for s in samples
    )


def over_ranks(student_s: float, memory_bytes: float) -> dict[str, float]:
    """Least, mean and most of what each rank measured, and which rank worked longest. Collective;
    the same on every rank.
    """
    mine = torch.tensor(
        [student_s, memory_bytes], dtype=torch.float64, device=current_runtime().device
    )
    world = torch.distributed.get_world_size()
    flat = torch.empty(world * 2, dtype=mine.dtype, device=mine.device)
    torch.distributed.all_gather_into_tensor(flat, mine)
    everyone = flat.view(world, 2)
    found = {"ranks/slowest": float(everyone[:, 0].argmax())}
    for column, key in enumerate(("student_s", "memory_bytes")):
        values = everyone[:, column]
        found[f"ranks/{key}_min"] = float(values.min())
        found[f"ranks/{key}_mean"] = float(values.mean())
        found[f"ranks/{key}_max"] = float(values.max())
    return found
