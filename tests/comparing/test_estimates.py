"""Intervals that cover, and the generations that a level takes, by hand."""

from __future__ import annotations

import math
import random

import pytest

from sdpo_megatron.comparing.estimates import (
    estimate,
    generations_to,
    smoothed,
)


def test_an_estimate_by_hand() -> None:
    found = estimate([1.0, 2.0, 3.0])  # deviation 1, error 1/sqrt(3)
    assert found.mean == 2.0
    assert found.half_width == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert str(estimate([0.5])) == "0.500"
    assert str(estimate([])) == "-"


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_intervals_cover_at_their_level(seeds: int) -> None:
    draw = random.Random(seeds)
    covered = 0
    for _ in range(2000):
        found = estimate([draw.gauss(0.4, 0.1) for _ in range(seeds)])
        covered += abs(found.mean - 0.4) <= found.half_width
    assert 0.935 < covered / 2000 < 0.965


def steps(*rates: float, attempts: int = 8) -> list[dict[str, float]]:
    return [{"rollout/success_rate": rate, "rollout/attempts": attempts} for rate in rates]


def test_a_level_is_reached_by_the_mean_of_a_window() -> None:
    run = steps(0.0, 0.0, 0.9, 0.6, 0.9)
    assert smoothed(run, "rollout/success_rate", 2) == pytest.approx([0, 0, 0.45, 0.75, 0.75])
    assert generations_to(run, 0.5, window=2) == 32
    assert generations_to(run, 0.5, window=1) == 24
    assert generations_to(run, 0.8, window=2) == math.inf


def test_what_a_step_did_not_measure_is_not_zero() -> None:
    run = [{"validation/success_rate": 0.2}, {}, {"validation/success_rate": 0.4}, {}]
    assert smoothed(run, "validation/success_rate", 2) == pytest.approx([0.2, 0.2, 0.3, 0.3])
    assert math.isnan(smoothed([{}], "validation/success_rate", 2)[0])
