from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdpo_megatron.actor.batches.packing import (
    pack,
    padded_length,
    partition,
    sequence_length,
)
from sdpo_megatron.nouns import TrainSample

CPU = torch.device("cpu")


def sample(prompt: int, response: int, teacher: int | None = None, start: int = 10) -> TrainSample:
    ids = tuple(range(start, start + prompt + response))
    return TrainSample(
        question_id="q",
        index=0,
        prompt_ids=ids[:prompt],
        response_ids=ids[prompt:],
        loss_mask=(True,) * response,
        log_probs=(-1.0,) * response,
        teacher_prompt_ids=None if teacher is None else (7,) * teacher,
    )


def test_two_sequences_and_padding_by_hand() -> None:
    packed = pack([sample(2, 2, start=10), sample(1, 3, start=20)], "student", 8, CPU)
    # Without its last token each: 10 11 12 | 20 21 22, then two tokens of padding.
    assert packed.tokens.tolist() == [[10, 11, 12, 20, 21, 22, 0, 0]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]]
    assert packed.cu_seqlens.tolist() == [0, 3, 6, 8]
    assert packed.max_seqlen == 3
    # 12 and 13 are predicted at places 1 and 2; 21, 22 and 23 at 3, 4 and 5.
    assert packed.predictor_index.tolist() == [1, 2, 3, 4, 5]


def test_roles_differ_in_the_prompt_only() -> None:
    one = sample(2, 3, teacher=5)
    assert sequence_length(one, "student") == 4
    assert sequence_length(one, "teacher") == 7
    packed = pack([one], "teacher", 7, CPU)
    assert packed.tokens.tolist() == [[7, 7, 7, 7, 7, 12, 13]]
    assert packed.predictor_index.tolist() == [4, 5, 6]


def test_an_attempt_without_a_teacher_is_read_under_its_own_prompt() -> None:
    assert pack([sample(2, 2)], "teacher", 3, CPU).tokens.tolist() == [[10, 11, 12]]


def test_an_empty_micro_batch_is_padding_alone() -> None:
    packed = pack([], "student", 4, CPU)
    assert packed.tokens.tolist() == [[0, 0, 0, 0]]
    assert packed.cu_seqlens.tolist() == [0, 4]
    assert packed.predictor_index.shape == (0,)


def test_padded_length_is_the_longest_rounded_up() -> None:
    tokens = np.array([4, 4, 2])
    assert padded_length(tokens, [[0], [1, 2]], 1) == 6
    assert padded_length(tokens, [[0], [1, 2]], 4) == 8
    assert padded_length(tokens, [[], []], 4) == 4  # nothing but padding


def parts(tokens: list[int], ranks: int, budget: int, work: list[float] | None = None) -> Any:
    """A partition; by tokens where `work` is not given."""
    return partition(
        np.array(tokens),
        np.array(work or tokens, float),
        num_ranks=ranks,
        token_budget=budget,
    )


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.5, 100.0)), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(50, 200),
)
def test_a_partition_is_complete_bounded_equal_in_number_and_balanced(
    items: list[tuple[int, float]], ranks: int, budget: int
) -> None:
    tokens, work = [t for t, _ in items], [w for _, w in items]
    plan = parts(tokens, ranks, budget, work)
    assert len(plan) == ranks
    assert len({len(rank) for rank in plan}) == 1
    assert sorted(i for rank in plan for chosen in rank for i in chosen) == list(range(len(items)))
    assert all(sum(tokens[i] for i in chosen) <= budget for rank in plan for chosen in rank)
    loads = [sum(work[i] for chosen in rank for i in chosen) for rank in plan]
    # Heaviest first: no rank is ahead of another by more than one sample.
    assert max(loads) - min(loads) <= max(work) + 1e-9
    assert plan == parts(tokens, ranks, budget, work)


def test_ranks_are_balanced_by_work_not_by_tokens() -> None:
    """One long sequence costs as much as six short ones of twice its tokens: the long one stands
    alone on its rank. By tokens it would have had company.
    """
    tokens, work = [6, 2, 2, 2, 2, 2, 2], [36.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0]
    assert parts(tokens, 2, 12, work) == [[[0]], [[1, 2, 3, 4, 5, 6]]]
    assert parts(tokens, 2, 12) == [[[0, 4, 6]], [[1, 2, 3, 5]]]


def test_samples_are_dealt_heavy_with_light() -> None:
    assert parts([8, 7, 6, 5], 2, 8) == [[[0], [3]], [[1], [2]]]


def test_the_budget_is_filled_to_the_last_token() -> None:
    assert parts([5, 4, 3], 1, 12) == [[[0, 1, 2]]]
    assert parts([5, 4, 3], 1, 11) == [[[1, 2], [0]]]


def test_more_ranks_than_samples_compute_padding() -> None:
    assert parts([5], 3, 8) == [[[0]], [[]], [[]]]


def test_few_large_and_many_small_fill_few_micro_batches_tightly() -> None:
    """Dealt evenly into two, 7 6 | 3 2 2 gives 7 + 2 and 6 + 3, and the last 2 overflows both."""
    assert parts([7, 6, 3, 2, 2], 1, 10) == [[[0, 2], [1, 3, 4]]]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(60, 120))
def test_no_micro_batch_more_than_a_scan_over_all_bins_needs(
    tokens: list[int], budget: int
) -> None:
    """Best fit again, with a scan for each sample."""
    bins: list[int] = []
    for size in sorted(tokens, reverse=True):
        fitting = [b for b in range(len(bins)) if bins[b] + size <= budget]
        if fitting:
            bins[max(fitting, key=lambda b: bins[b])] += size
        else:
            bins.append(size)
    (found,) = parts(tokens, 1, budget)
    assert -(-sum(tokens) // budget) <= len(found) <= len(bins)
