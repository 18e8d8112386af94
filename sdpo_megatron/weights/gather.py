"""Turn the model chunks of all ranks back into Hugging Face tensors on rank 0, one layer at a time.

A rank knows where every other rank stands, so both ends of a transfer know its contents from the
mapping alone: each rank that holds the first copy of something in a bucket sends it to rank 0 as
one flat tensor, and rank 0 puts the pieces in place. No rank holds more than one bucket besides its
own parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from sdpo_megatron.weights.layout import Chunks, current_position, holds_first_copy, local_params
from sdpo_megatron.weights.mapping import Param, Position, Shape, hf_shapes, params
from sdpo_megatron.weights.spec import ModelSpec


@dataclass(frozen=True)
class _Holder:
    """Where a rank stands, and whether its dense and expert parameters are the first copies."""

    position: Position
    dense: bool
    experts: bool

    def buckets(self, spec: ModelSpec) -> dict[int, list[Param]]:
        """Its parameters that travel, by bucket number."""
        found: dict[int, list[Param]] = {}
        for param in params(spec, self.position):
            if not param.is_copy and (self.experts if param.is_expert else self.dense):
                found.setdefault(param.bucket, []).append(param)
        return found


@torch.no_grad()
def iter_hf_tensors(
    chunks: Chunks, spec: ModelSpec, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Every Hugging Face tensor of the model, by name, in the order of `mapping.hf_shapes`.

    Collective over the world: every rank must run it to its end. Replicated tensors come from
    tensor-parallel rank 0.

    Args:
        chunks: This rank's model chunks, DDP-wrapped or not.
        dtype: Of the yielded tensors; None means the parameters' own.

    Yields:
        (name, tensor) on rank 0, on the runtime's device, owned by the caller; (name, None) on the
        other ranks.
    """
    here = current_position()
    held = local_params(chunks, spec, here)
    tensors = {param.name: tensor.detach() for param, tensor in held}
    own_dtype = held[0][1].dtype
    device = held[0][1].device
    holders = _all_holders(_Holder(here, *holds_first_copy()))
    plans = [holder.buckets(spec) for holder in holders]
    rank = dist.get_rank()
    for number, names in enumerate(_bucket_names(spec)):
        mine = plans[rank].get(number, [])
        if rank != 0:
            if mine:
                dist.send(torch.cat([tensors[param.name].reshape(-1) for param in mine]), dst=0)
            yield from ((name, None) for name in names)
            continue
        whole = {
            name: torch.empty(shape, dtype=own_dtype, device=device)
            for name, shape in names.items()
        }
        for param in mine:
            _place(param, tensors[param.name], whole)
        for source in range(1, len(holders)):
            _receive(source, plans[source].get(number, []), whole, own_dtype, device)
        for name in names:
            tensor = whole.pop(name)
            yield name, tensor if dtype is None else tensor.to(dtype)


def _all_holders(mine: _Holder) -> list[_Holder]:
    holders: list[_Holder | None] = [None] * dist.get_world_size()
    dist.all_gather_object(holders, mine)
    return [holder for holder in holders if holder is not None]


def _bucket_names(spec: ModelSpec) -> list[dict[str, Shape]]:
    """Names and shapes of the Hugging Face tensors of each bucket."""
    buckets: list[dict[str, Shape]] = [{} for _ in range(spec.num_layers + 2)]
    for name, shape in hf_shapes(spec).items():
        if name.startswith("model.layers."):
            number = 1 + int(name.split(".", 3)[2])
        else:
            number = 0 if name.startswith("model.embed_tokens.") else 1 + spec.num_layers
        buckets[number][name] = shape
    return buckets


def _receive(
    source: int,
    expected: list[Param],
    whole: dict[str, torch.Tensor],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    if not expected:
        return
    sizes = [math.prod(param.shape) for param in expected]
    flat = torch.empty(sum(sizes), dtype=dtype, device=device)
    dist.recv(flat, src=source)
    for param, values in zip(expected, torch.split(flat, sizes), strict=True):
        _place(param, values.view(param.shape), whole)


def _place(param: Param, values: torch.Tensor, whole: dict[str, torch.Tensor]) -> None:
    for piece in param.pieces:
        size = piece.hf_stop - piece.hf_start
        target = whole[piece.hf].narrow(piece.axis, piece.hf_start, size)
        target.copy_(values.narrow(piece.axis, piece.start, size))
