"""Lengths against closed forms and sums over many drawn ones."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from sdpo_megatron.planning.lengths import Lengths

LENGTHS = Lengths(mean=3000, spread=0.8, limit=8192)


def test_the_median_is_that_of_a_log_normal() -> None:
    far = Lengths(mean=3000, spread=0.8, limit=10**9)
    assert far.quantile(0.5) == pytest.approx(3000 / math.sqrt(1 + 0.8**2))
    assert far.expected() == pytest.approx(3000)


def test_the_mean_after_the_cut_is_that_of_many() -> None:
    many = LENGTHS.evenly(20_000)
    assert LENGTHS.expected() == pytest.approx(statistics.fmean(many), rel=1e-3)
    assert LENGTHS.cut_share() == pytest.approx(many.count(8192) / len(many), abs=1e-3)


def test_the_longest_is_the_median_of_maxima() -> None:
    draw = random.Random(0)
    mu, sigma = LENGTHS._log()
    maxima = [max(draw.lognormvariate(mu, sigma) for _ in range(5)) for _ in range(4001)]
    assert LENGTHS.longest(5) == pytest.approx(statistics.median(maxima), rel=0.03)


def test_without_spread_all_are_alike() -> None:
    alike = Lengths(mean=50, spread=0, limit=64)
    assert alike.evenly(3) == [50, 50, 50]
    assert (alike.expected(), alike.longest(9), alike.cut_share()) == (50, 50, 0)
    cut = Lengths(mean=100, spread=0, limit=64)
    assert (cut.expected(), cut.cut_share()) == (64, 1)


def test_drawn_ones_are_the_even_ones_in_another_order() -> None:
    drawn = LENGTHS.drawn(100, random.Random(3))
    assert sorted(drawn) == LENGTHS.evenly(100)
    assert drawn != LENGTHS.evenly(100)
