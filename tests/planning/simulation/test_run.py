"""The simulated architecture against what must come out where that is known."""

from __future__ import annotations

import pytest

from sdpo_megatron.planning.lengths import Lengths
from sdpo_megatron.planning.loads import loads
from sdpo_megatron.planning.phases import Model
from sdpo_megatron.planning.simulation.run import Outcome, Simulation
from tests.planning.cases import model

MIXED = Lengths(mean=1000, spread=0.8, limit=8192)
NO_PYTHON = {"sample_us": 0.0, "teach_us": 0.0, "store_us": 0.0}


def simulated(one: Model, staleness: int, steps: int = 6, train_s: float | None = None) -> Outcome:
    given = None if train_s is None else lambda: train_s
    return Simulation(one, max_staleness=staleness, steps=steps, train_s=given).run()


def test_in_lockstep_a_step_is_rollout_training_and_publishing() -> None:
    # All attempts end at one moment, so that each needs a verifier of its own.
    one = model(speeds=NO_PYTHON, cluster={"judges": 256})
    found = simulated(one, 0)
    expected = one.rollout().seconds + one.train_s() + one.publish().seconds
    assert found.step_s == pytest.approx(expected)
    assert found.steps == 6
    assert found.staleness == found.dropped == 0
    assert found.trainer_busy == pytest.approx(one.train_s() / expected)
    assert found.judges_busy == pytest.approx(0.25 / expected)
    assert found.running == pytest.approx(32 * 4.2 / expected)


@pytest.mark.parametrize("train_s", [1.0, 30.0])
def test_one_step_ahead_takes_the_longer_of_generation_and_training(train_s: float) -> None:
    """Engines that are paused by a swap decode later what they would have decoded then."""
    one = model(speeds=NO_PYTHON | {"swap_s": 0.0}, transport="distributed")
    publish, rollout = one.publish().seconds, one.rollout().seconds
    found = simulated(one, 1, steps=12, train_s=train_s)
    assert found.step_s == pytest.approx(max(rollout, train_s + publish), rel=0.15)
    assert found.staleness <= 1


def test_nothing_is_trained_twice_or_lost() -> None:
    one = model(work={"lengths": MIXED}, speeds=NO_PYTHON)
    run = Simulation(one, max_staleness=2, steps=5)
    found = run.run()
    state = run._state
    assert state.taken == 5 * one.work.questions
    unfinished = len(run._groups) + len(run._ready)
    in_workers = state.leased - state.taken - state.dropped - unfinished
    assert 0 <= in_workers <= one.work.questions
    assert state.leased <= (2 + 5 + 1) * one.work.questions + state.dropped
    assert found.staleness <= 2


def test_staleness_hides_the_tail() -> None:
    one = model(work={"lengths": MIXED}, speeds=NO_PYTHON, cluster={"engines": 64})
    seconds = [simulated(one, staleness, steps=10).step_s for staleness in (0, 1, 4)]
    assert seconds[0] > 1.2 * seconds[1] > 1.2 * seconds[2]
    engines = next(load.seconds for load in loads(one) if load.name == "engines")
    assert seconds[2] > engines


def test_one_slow_worker_is_what_gives_out() -> None:
    slow = NO_PYTHON | {"teach_us": 1000.0}
    one = model(speeds=slow, transport="distributed")
    found = simulated(one, 4, steps=10)
    assert loads(one)[0].name == "rollout workers (Python)"
    assert found.step_s == pytest.approx(loads(one)[0].seconds, rel=0.02)
    assert found.workers_busy > 0.95
    two = simulated(model(speeds=slow, cluster={"cells": 2}, transport="distributed"), 4, steps=10)
    assert two.step_s == pytest.approx(found.step_s / 2, rel=0.05)


def test_the_same_seed_gives_the_same_run() -> None:
    one = model(work={"lengths": MIXED})
    assert simulated(one, 2) == simulated(one, 2)


def test_ten_thousand_gpus() -> None:
    """Half of them engines, 8192 attempts a step, in lockstep: the longest attempt decides."""
    place = {"engines": 5000, "cells": 80, "judges": 5000, "data_parallel": 1250, "nodes": 625}
    one = model(
        work={"lengths": MIXED, "questions": 1024},
        cluster=place,
        transport="distributed",
    )
    found = simulated(one, 0, steps=2)
    assert found.events > 2 * 8192
    assert loads(one)[0].name == "the longest attempt"
    expected = one.rollout().seconds + one.train_s() + one.publish().seconds
    assert found.step_s == pytest.approx(expected, rel=0.1)
