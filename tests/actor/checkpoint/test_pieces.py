"""Flat ranges as rectangles: every element once, in order, none larger than allowed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sdpo_megatron.actor.checkpoint.pieces import Part, boxes

SHAPES = [(), (1,), (7,), (3, 4), (1, 5, 2), (2, 3, 4), (2, 1, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("most", [1, 3, 8, 1000])
def test_every_range_is_covered_once_and_in_order(shape: tuple[int, ...], most: int) -> None:
    whole = np.arange(math.prod(shape)).reshape(shape)
    for start, stop in itertools.combinations(range(whole.size + 1), 2):
        found = []
        for offset, sizes, begin in boxes(shape, start, stop, most):
            part = whole[tuple(slice(o, o + s) for o, s in zip(offset, sizes, strict=True))]
            assert part.shape == sizes
            assert part.size <= most
            assert part.ravel()[0] == begin
            found += part.ravel().tolist()
        assert found == list(range(start, stop))


def test_a_range_of_a_matrix_is_at_most_three() -> None:
    assert list(boxes((5, 4), 3, 14)) == [
        ((0, 3), (1, 1), 3),
        ((1, 0), (2, 4), 4),
        ((3, 0), (1, 2), 12),
    ]


def test_the_second_half_of_a_parameter_lies_where_its_part_says() -> None:
    """As the up projection, which shares a parameter with the gate, in layer 2 of 4."""
    up = Part(
        key="up",
        shape=(4, 6, 10),
        offset=(2, 3, 0),
        sizes=(1, 3, 10),
        start=30,
        first=True,
        resizable=False,
    )
    assert list(up.between(0, 30)) == []
    (row,) = up.between(35, 40)
    assert (row.offset, row.sizes, row.start) == ((2, 3, 5), (1, 1, 5), 35)
    (all_of_it,) = up.between(0, 60)
    assert (all_of_it.offset, all_of_it.sizes, all_of_it.start) == ((2, 3, 0), (1, 3, 10), 30)
