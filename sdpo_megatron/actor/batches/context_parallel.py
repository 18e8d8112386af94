"""Context parallelism: each sequence is cut over ranks, and the loss of a token is computed where
its hidden state is.

With N ranks every sequence is cut into 2 N equal pieces; rank r computes pieces r and 2 N - 1 - r,
so that under a causal mask all ranks do the same work. It is the cut that Transformer Engine's
attention and Megatron's rotary embedding expect of packed sequences.

Student and teacher sequences of an attempt have different prompts, so a response token's two hidden
states may end up on different ranks. The teacher's are gathered for all response tokens; the
student's stay where they are.

Shapes: T tokens of a micro-batch, R its response tokens, H hidden size.
"""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import torch
import torch.distributed as dist

from sdpo_megatron.actor.batches.packing import PackedSequences
from sdpo_megatron.objectives import TokenTargets


def shard(packed: PackedSequences, rank: int, size: int) -> PackedSequences:
    """What rank `rank` of `size` computes of a micro-batch; boundaries stay those of the whole.

    Raises:
        ValueError: A sequence's length is no multiple of 2 x `size`.
    """
    chosen = _local_indices(packed.cu_seqlens.tolist(), rank, size).to(packed.tokens.device)
    place = torch.full((packed.tokens.shape[1],), -1, dtype=torch.int64, device=chosen.device)
    place[chosen] = torch.arange(len(chosen), device=chosen.device)
    local = place[packed.predictor_index]
    response_index = (local >= 0).nonzero()[:, 0]
    return replace(
        packed,
        tokens=packed.tokens[:, chosen],
        position_ids=packed.position_ids[:, chosen],
        predictor_index=local[response_index],
        response_index=response_index,
    )


def gather_responses(
    values: torch.Tensor, packed: PackedSequences, group: dist.ProcessGroup
) -> torch.Tensor:
    """[R_local, ...] of each rank -> [R, ...] on every rank, in the micro-batch's order."""
    whole = values.new_zeros(packed.num_responses, *values.shape[1:])
    whole[packed.response_index] = values
    # Each response token is on exactly one rank and zero on the others: a sum is a gather.
    dist.all_reduce(whole, group=group)
    return whole


def select(targets: TokenTargets, response_index: torch.Tensor) -> TokenTargets:
    """The targets of the response tokens that this rank holds."""
    named = {item.name: getattr(targets, item.name) for item in fields(targets)}
    return replace(
        targets,
        **{name: None if v is None else v[response_index] for name, v in named.items()},
    )


def _local_indices(boundaries: list[int], rank: int, size: int) -> torch.Tensor:
    pieces = []
    for start, stop in itertools.pairwise(boundaries):
        piece, rest = divmod(stop - start, 2 * size)
        if rest:
            raise ValueError(
                f"a sequence of {stop - start} tokens cannot be cut into 2 x {size} equal pieces"
            )
        for number in (rank, 2 * size - 1 - rank):
            pieces.append(torch.arange(start + number * piece, start + (number + 1) * piece))
    return torch.cat(pieces)
