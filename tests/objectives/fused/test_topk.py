"""Exact top-K: against sorting, with ties, and through every path."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo_megatron.objectives.fused.topk import (
    BLOCK,
    block_maxima,
    blocked_topk_first,
    key_ids,
    order_keys,
    topk_first,
)


def by_sorting(row: list[float], k: int) -> set[int]:
    return set(sorted(range(len(row)), key=lambda i: (-row[i], i))[:k])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_chooses_the_largest_and_the_lowest_index_among_equals(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 12 * BLOCK))
    k = data.draw(st.integers(1, min(length, 9)))
    levels = data.draw(st.sampled_from([1, 2, 5, 10_000]))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    values = torch.randint(-levels, levels + 1, (3, length), generator=g).to(dtype)
    for top, ids in (topk_first(values, k), blocked_topk_first(values, block_maxima(values), k)):
        for row, found, chosen in zip(values.tolist(), top.tolist(), ids.tolist(), strict=True):
            assert set(chosen) == by_sorting(row, k)
            assert found == sorted((row[i] for i in chosen), reverse=True)


def test_blocks_are_really_skipped() -> None:
    """k = 2 of 8 blocks: the winners are found though they lie in the same block, or the last."""
    values = torch.zeros(2, 8 * BLOCK + 5)
    values[0, 3 * BLOCK + 1], values[0, 3 * BLOCK + 2] = 5.0, 6.0
    values[1, -1], values[1, 0] = 7.0, 1.0
    top, ids = blocked_topk_first(values, block_maxima(values), 2)
    assert ids.tolist() == [[3 * BLOCK + 2, 3 * BLOCK + 1], [8 * BLOCK + 4, 0]]
    assert top.tolist() == [[6.0, 5.0], [7.0, 1.0]]


def test_keys_order_like_value_then_index_and_give_the_index_back() -> None:
    values = torch.tensor([-torch.inf, -1e4, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.5, 1e4, torch.inf])
    ids = torch.arange(10) * 1000
    keys = order_keys(values, ids)
    assert torch.equal(key_ids(keys), ids)
    order = keys.argsort().tolist()
    assert order == [
        0,
        1,
        2,
        3,
        5,
        4,
        6,
        7,
        8,
        9,
    ]  # -0.0 (id 4000) equals 0.0 (id 5000): lower id first


def test_a_choice_among_equals_does_not_depend_on_torch_topk() -> None:
    values = torch.ones(1, 5000)
    assert topk_first(values, 7)[1].sort().values.tolist() == [list(range(7))]
    assert blocked_topk_first(values, block_maxima(values), 7)[1].sort().values.tolist() == [
        list(range(7))
    ]


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_block_maxima(length: int) -> None:
    values = torch.randn(4, length)
    expected = torch.stack([part.amax(-1) for part in values.split(BLOCK, dim=-1)], -1)
    assert torch.equal(block_maxima(values), expected)
