"""What a step amounts to: operations done, and how evenly the ranks worked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from sdpo_megatron.actor.batches.packing import Role
from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.actor.runtime import current_runtime
from sdpo_megatron.weights.flops import forward_flops
from sdpo_megatron.weights.spec import ModelSpec

BACKWARD = 2  # in forward passes


def pass_flops(spec: ModelSpec, table: SampleTable, role: Role) -> NDArray[np.float64]:
    """[N], operations of one forward pass over each sample under the prompt of `role`."""
    tokens, responses = table.tokens(role), table.responses
    return forward_flops(spec, tokens.astype(np.float64), responses.astype(np.float64))


def over_ranks(measured: Mapping[str, float]) -> dict[str, float]:
    """Least, mean and most of what each rank measured, and which rank had the most of the first: a
    metric ``ranks/KEY_min`` and so on for each key. Collective; the same on every rank.
    """
    mine = torch.tensor(
        list(measured.values()), dtype=torch.float64, device=current_runtime().device
    )
    world = torch.distributed.get_world_size()
    flat = torch.empty(world * len(mine), dtype=mine.dtype, device=mine.device)
    torch.distributed.all_gather_into_tensor(flat, mine)
    everyone = flat.view(world, len(mine))
    found = {"ranks/slowest": float(everyone[:, 0].argmax())}
    for column, key in enumerate(measured):
        values = everyone[:, column]
        found[f"ranks/{key}_min"] = float(values.min())
        found[f"ranks/{key}_mean"] = float(values.mean())
        found[f"ranks/{key}_max"] = float(values.max())
    return found
