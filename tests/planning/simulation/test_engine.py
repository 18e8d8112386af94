"""Engines against sums by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sdpo_megatron.planning.simulation.engine import Engine, drain
from tests.planning.cases import ROUND


def test_requests_of_one_length_end_together() -> None:
    ends = drain(ROUND, 64, [100] * 8, prompt=50, prefill_s=2.0)
    assert ends == pytest.approx([2.0 + 100 * (0.010 + 8 * 0.001)] * 8)


def test_the_tail_decodes_faster_alone() -> None:
    short, long = drain(ROUND, 64, [10, 30], prompt=0, prefill_s=0.0)
    assert short == pytest.approx(10 * 0.012)
    assert long == pytest.approx(10 * 0.012 + 20 * 0.011)


def test_what_finds_no_slot_waits() -> None:
    ends = drain(ROUND, 2, [10, 20, 10], prompt=0, prefill_s=0.0)
    # The third takes the first one's slot and ends with the second.
    assert ends == pytest.approx([0.12, 0.24, 0.24])


def test_a_growing_cache_costs_a_sum_of_integers() -> None:
    """n tokens after a prompt of p read p + (p + 1) + ... ~ n p + n^2 / 2 entries of the cache."""
    speeds = replace(ROUND, context_s=1e-4)
    (end,) = drain(speeds, 1, [100], prompt=50, prefill_s=0.0)
    assert end == pytest.approx(100 * 0.011 + 1e-4 * (100 * 50 + 100**2 / 2))


def test_time_may_be_cut_anywhere() -> None:
    speeds = replace(ROUND, context_s=1e-4)
    whole = drain(speeds, 4, [50, 80, 90], prompt=10, prefill_s=0.3)
    engine = Engine(speeds, 4)
    engine.pause(0.3)
    for number, tokens in enumerate([50, 80, 90]):
        engine.add(number, tokens, 10, 0.0)
    for moment in (0.1, 0.31, 0.5):
        engine.advance(moment)
        assert engine.next_end() == pytest.approx(whole[0])


def test_a_request_that_comes_later_slows_the_first() -> None:
    engine = Engine(ROUND, 4)
    engine.add(0, 100, 0, 0.0)
    engine.advance(0.55)  # 50 tokens
    engine.add(1, 100, 0, 0.2)
    assert engine.next_end() == pytest.approx(0.55 + 0.2 + 50 * 0.012)
    engine.advance(engine.next_end())
    assert engine.end() == 0
    assert engine.next_end() == pytest.approx(1.35 + 50 * 0.011)
    engine.advance(engine.next_end())
    engine.end()
    assert engine.next_end() == math.inf
    assert engine.busy_s == pytest.approx(1.9)
    assert engine.running_s == pytest.approx(0.55 + 2 * 0.8 + 0.55)
