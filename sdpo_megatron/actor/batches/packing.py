"""Packed micro-batches of attempts: equal in number on all data-parallel ranks, balanced by work.

Shape legend: T tokens of a packed micro-batch (padding included), S sequences in it, R response
    tokens in it.

A response token at position i is predicted from the hidden state at i - 1, so a sequence enters the
model without its last token. Student and teacher sequences of an attempt differ in their prompts
only: the same partition serves both, and the response tokens of a micro-batch stand in the same
order in both.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sdpo_megatron.nouns import TrainSample

Role = Literal["student", "teacher", "null"]


@dataclass(frozen=True)
class PackedSequences:
    """One packed micro-batch as the model takes it.

    Attributes:
        tokens: [1, T] int64.
        position_ids: [1, T] int64, from 0 in each sequence.
        cu_seqlens: [S + 1] int32, the boundaries of the sequences; the padding is a sequence of its
            own.
        max_seqlen: Length of the longest sequence.
        predictor_index: [R] int64, where in T the hidden state stands that predicts each response
            token.
        num_responses: Response tokens of the micro-batch, on all context-parallel ranks together.
        response_index: [R] int64, which of the micro-batch's response tokens these are; None for
            all of them (no context parallelism).
    """

    tokens: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    predictor_index: torch.Tensor
    num_responses: int
    response_index: torch.Tensor | None = None


def prompt_of(sample: TrainSample, role: Role) -> NDArray[np.int32]:
    """The prompt under which `role` reads the attempt; an attempt without a teacher is read under
    its own prompt (weight 0).
    """
    prompts = {"teacher": sample.teacher_prompt_ids, "null": sample.null_prompt_ids}
    prompt = prompts.get(role)
    return sample.prompt_ids if prompt is None else prompt


def sequence_length(sample: TrainSample, role: Role, *, multiple_of: int = 1) -> int:
    """Tokens that enter the model for this attempt, rounded up."""
    length = len(prompt_of(sample, role)) + len(sample.response_ids) - 1
    return -(-length // multiple_of) * multiple_of


def partition(
    tokens: NDArray[np.int64], work: NDArray[np.float64], *, num_ranks: int, token_budget: int
) -> list[list[list[int]]]:
    """Indices of samples by rank and micro-batch: ``result[rank][micro_batch] -> [index, ...]``.

    Samples go to the ranks by `work`, so that no rank waits long for another, and on a rank to
    micro-batches by `tokens`. Every rank gets the same number of micro-batches: the fewest that
    hold what each has. They are filled evenly, heaviest first into the least loaded; where so few
    would then overflow, as tightly as they go. Deterministic. A micro-batch without a sample
    becomes pure padding.

    Args:
        tokens: [N], what the budget counts; none is above it.
        work: [N], of a sample; in any unit.
        num_ranks: Data-parallel ranks.
        token_budget: Of a micro-batch.
    """
    costs = tokens.tolist()
    ranks = _least_loaded(work.tolist(), np.argsort(-work, kind="stable").tolist(), num_ranks)
    orders = [sorted(rank, key=lambda i: (-costs[i], i)) for rank in ranks]
    number = max(_num_bins(costs, order, token_budget) for order in orders)
    found = []
    for order in orders:
        bins = _evenly(costs, order, number, token_budget)
        if bins is None:
            bins = _tightly(costs, order, token_budget)
            bins += [[] for _ in range(number - len(bins))]
        parts = [sorted(part) for part in bins]
        found.append(sorted(parts, key=lambda part: -sum(costs[i] for i in part)))
    return found


def _least_loaded(loads: Sequence[float], order: Sequence[int], num_bins: int) -> list[list[int]]:
    """Items dealt in `order`, each into the bin that carries least."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    heap: list[tuple[float, int]] = [(0.0, number) for number in range(num_bins)]
    for i in order:
        load, target = heap[0]
        bins[target].append(i)
        heapq.heapreplace(heap, (load + loads[i], target))
    return bins


def _evenly(
    costs: Sequence[int], order: Sequence[int], num_bins: int, budget: int
) -> list[list[int]] | None:
    """As `_least_loaded`; None where a bin would hold more than `budget`."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    heap = [(0, number) for number in range(num_bins)]
    for i in order:
        load, target = heap[0]
        if load + costs[i] > budget:
            return None
        bins[target].append(i)
        heapq.heapreplace(heap, (load + costs[i], target))
    return bins


def _tightly(costs: Sequence[int], order: Sequence[int], budget: int) -> list[list[int]]:
    """Items dealt in `order`, each into the fullest bin that it fits into (best fit): within 11/9
    of the fewest bins that there are (D. S. Johnson, 1973).
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, bin), in order
    for i in order:
        at = bisect.bisect_left(free, (costs[i], 0))
        left, target = free.pop(at) if at < len(free) else (budget, len(bins))
        if target == len(bins):
            bins.append([])
        bins[target].append(i)
        bisect.insort(free, (left - costs[i], target))
    return bins


def _num_bins(costs: Sequence[int], order: Sequence[int], budget: int) -> int:
    """Bins that the items need, filled evenly or tightly; at least one."""
    least = max(1, -(-sum(costs[i] for i in order) // budget))
    even = _evenly(costs, order, least, budget) is not None
    return least if even else len(_tightly(costs, order, budget))


def padded_length(
    tokens: NDArray[np.int64], micro_batches: Sequence[Sequence[int]], multiple_of: int
) -> int:
    """One length for all micro-batches of a pass: stages exchange tensors of one shape.

    Args:
        tokens: [N], of the samples that `micro_batches` are indices of.
    """
    longest = max(1, *(int(tokens[list(chosen)].sum()) for chosen in micro_batches))
    return -(-longest // multiple_of) * multiple_of


def pack(
    samples: Sequence[TrainSample],
    role: Role,
    length: int,
    device: torch.device,
    *,
    sequence_multiple: int = 1,
) -> PackedSequences:
    """Concatenate `samples` under the prompts of `role`, pad to `length` tokens.

    Each sequence is itself padded at its end to a multiple of `sequence_multiple` (context
    parallelism cuts every sequence); attention is causal, so no real token sees that padding.
    """
    tokens = np.zeros(length, np.int64)
    boundaries, predictors = [0], []
    for sample in samples:
        prompt, start = prompt_of(sample, role), boundaries[-1]
        first = start + len(prompt)
        last = first + len(sample.response_ids) - 1  # the last token is predicted, never fed
        tokens[start:first] = prompt
        tokens[first:last] = sample.response_ids[:-1]
        predictors.append(np.arange(first - 1, last))
        boundaries.append(start + sequence_length(sample, role, multiple_of=sequence_multiple))
    if boundaries[-1] < length:
        boundaries.append(length)
    positions = np.concatenate([np.arange(stop - start) for start, stop in pairwise(boundaries)])
    predictor_index = np.concatenate(predictors) if predictors else np.zeros(0, np.int64)
    longest = max(stop - start for start, stop in pairwise(boundaries))
    return PackedSequences(
        tokens=torch.from_numpy(tokens[None]).to(device),
        position_ids=torch.from_numpy(positions[None]).to(device),
        cu_seqlens=torch.tensor(boundaries, dtype=torch.int32, device=device),
        max_seqlen=longest,
        predictor_index=torch.from_numpy(predictor_index).to(device),
        num_responses=len(predictor_index),
    )
