"""After NaN or infinity: one more forward pass names the rank and layer where it first appears."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from sdpo_megatron.actor.batches.packing import PackedSequences
from sdpo_megatron.actor.model.pipeline import Pipeline


def first_bad_layer(pipeline: Pipeline, batches: Sequence[PackedSequences]) -> str:
    """Where the forward pass leaves finite numbers, for the message; collective over all ranks.

    Of the layers of all pipeline stages the earliest is named; on a tie the lowest rank.
    """
    found: list[tuple[int, str]] = []

    def watch(number: int, what: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, torch.Tensor) and not torch.isfinite(tensor).all():
                found.append((number, what))

        return hook

    with ExitStack() as stack:
        for chunk in pipeline.chunks:
            model = chunk.module
            if model.pre_process:
                handle = model.embedding.register_forward_hook(watch(0, "the embedding"))
                stack.callback(handle.remove)
            for layer in model.decoder.layers:
                handle = layer.register_forward_hook(
                    watch(layer.layer_number, f"layer {layer.layer_number}")
                )
                stack.callback(handle.remove)
        pipeline.hidden_states(batches)
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    mine = (*min(found), rank) if found else None
    everyone: list[tuple[int, str, int] | None] = [None] * world
    torch.distributed.all_gather_object(everyone, mine)
    seen = sorted((number, at, what) for entry in everyone if entry for number, what, at in [entry])
    if not seen:
        return "every layer's output is finite: it appears in the LM head or in the teacher's pass"
    _, at, what = seen[0]
    return f"it first appears in the output of {what} on rank {at}"
