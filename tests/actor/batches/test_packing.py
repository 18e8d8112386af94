from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdpo_megatron.actor.batches.packing import (
    cost,
    pack,
    padded_length,
    partition,
    sequence_length,
)
from sdpo_megatron.errors import ConfigError
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
    assert cost(one) == 7
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
    batches = [[sample(2, 3)], [sample(2, 3), sample(1, 2)]]
    assert padded_length(batches, "student", multiple_of=1) == 6
    assert padded_length(batches, "student", multiple_of=4) == 8


def test_what_does_not_fit_says_so() -> None:
    with pytest.raises(ConfigError, match=r"q attempt 0: 10 tokens do not fit .*=9"):
        partition([sample(5, 6)], num_ranks=1, token_budget=9)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(50, 200),
)
def test_a_partition_is_complete_bounded_equal_in_number_and_balanced(
    lengths: list[int], ranks: int, budget: int
) -> None:
    samples = [sample(1, length) for length in lengths]
    plan = partition(samples, num_ranks=ranks, token_budget=budget)
    assert len(plan) == ranks
    assert len({len(rank) for rank in plan}) == 1
    assert sorted(i for rank in plan for chosen in rank for i in chosen) == list(
        range(len(lengths))
    )
    assert all(sum(lengths[i] for i in chosen) <= budget for rank in plan for chosen in rank)
    loads = [sum(lengths[i] for chosen in rank for i in chosen) for rank in plan]
    # The longest-first rule: no rank is further from another than the two heaviest bins together.
    assert max(loads) - min(loads) <= 2 * budget
    assert plan == partition(samples, num_ranks=ranks, token_budget=budget)


def test_ranks_are_dealt_heavy_bins_with_light_ones() -> None:
    """Four bins of 8, 7, 6 and 5 tokens: dealt back and forth both ranks carry 13; dealt in one
    direction they would carry 14 and 12.
    """
    samples = [sample(1, tokens) for tokens in (8, 7, 6, 5)]
    plan = partition(samples, num_ranks=2, token_budget=8)
    assert plan == [[[0], [3]], [[1], [2]]]


def test_the_budget_is_filled_to_the_last_token() -> None:
    samples = [sample(1, tokens) for tokens in (5, 4, 3)]
    assert partition(samples, num_ranks=1, token_budget=12) == [[[0, 1, 2]]]
    assert partition(samples, num_ranks=1, token_budget=11) == [[[1, 2], [0]]]
