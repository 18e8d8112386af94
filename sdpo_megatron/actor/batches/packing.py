"""Packed micro-batches of attempts: equal in number on all data-parallel ranks, balanced by tokens.

Shape legend: T tokens of a packed micro-batch (padding included), S sequences in it, R response
    tokens in it.

A response token at position i is predicted from the hidden state at i - 1, so a sequence enters the
model without its last token. Student and teacher sequences of an attempt differ in their prompts
only: the same partition serves both, and the response tokens of a micro-batch stand in the same
order in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sdpo_megatron.errors import ConfigError
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


def cost(sample: TrainSample) -> int:
    """Tokens of the longest role: what the budget counts."""
    return max(sequence_length(sample, role) for role in ("student", "teacher", "null"))


def partition(
    samples: Sequence[TrainSample], *, num_ranks: int, token_budget: int
) -> list[list[list[int]]]:
    """Indices of samples by rank and micro-batch: ``result[rank][micro_batch] -> [index, ...]``.

    Every rank gets the same number of micro-batches; one without an attempt (fewer attempts than
    micro-batches) is an empty list and becomes pure padding. Longest first into the least loaded
    bin; deterministic.

    Raises:
        ConfigError: An attempt alone is longer than the budget.
    """
    costs = [cost(sample) for sample in samples]
    for sample, tokens in zip(samples, costs, strict=True):
        if tokens > token_budget:
            raise ConfigError(
                f"{sample.question_id} attempt {sample.index}: {tokens} tokens do not fit "
                "batch.micro_batch_tokens="
                f"{token_budget}; raise it or shorten prompts and responses"
            )
    per_rank = max(1, -(-sum(costs) // (token_budget * num_ranks)))
    while True:
        bins = _fill(costs, per_rank * num_ranks, token_budget)
        if bins is not None:
            break
        per_rank += 1
    # Heaviest with lightest: deal the bins to the ranks back and forth, so that ranks carry equal
    # sums.
    bins.sort(key=lambda chosen: -sum(costs[i] for i in chosen))
    ranks: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    for start in range(0, len(bins), num_ranks):
        row = bins[start : start + num_ranks]
        for rank, chosen in enumerate(row if (start // num_ranks) % 2 == 0 else reversed(row)):
            ranks[rank].append(chosen)
    return ranks


def _fill(costs: Sequence[int], num_bins: int, budget: int) -> list[list[int]] | None:
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    load = [0] * num_bins
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        target = min(range(num_bins), key=lambda b: (load[b], b))
        if load[target] + costs[i] > budget:
            return None
        bins[target].append(i)
        load[target] += costs[i]
    return [sorted(chosen) for chosen in bins]


def padded_length(
    micro_batches: Sequence[Sequence[TrainSample]],
    role: Role,
    *,
    multiple_of: int,
    sequence_multiple: int = 1,
) -> int:
    """One length for all micro-batches of a pass: stages exchange tensors of one shape."""
    longest = max(
        sum(sequence_length(s, role, multiple_of=sequence_multiple) for s in samples)
        for samples in micro_batches
    )
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
