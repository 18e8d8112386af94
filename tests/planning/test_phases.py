"""Phases against sums by hand."""

from __future__ import annotations

import pytest

from sdpo_megatron.planning.lengths import Lengths
from sdpo_megatron.planning.loads import goodput, loads, synchronous_s
from sdpo_megatron.planning.rank_share import num_parameters
from sdpo_megatron.weights.flops import forward_flops
from tests.planning.cases import SPEC, model

PARAMETERS = num_parameters(SPEC)
ATTEMPTS = 256


def test_a_rollout_is_an_engines_share_and_the_last_verdict() -> None:
    # 32 attempts an engine, all alike.
    assert model().rollout().seconds == pytest.approx(100 * (0.010 + 32 * 0.001) + 0.25)


def test_few_verifiers_decide_the_rollout() -> None:
    found = model(cluster={"judges": 4}).rollout().seconds
    assert found == pytest.approx(ATTEMPTS * 0.25 / 4 + 0.25)


def test_the_longest_attempt_decides_the_tail() -> None:
    lengths = Lengths(mean=1000, spread=1.0, limit=8192)
    work = {"lengths": lengths, "questions": 256, "num_attempts": 1}
    found = model(work=work, cluster={"engines": 256, "judges": 256}).rollout().seconds
    assert found == pytest.approx(lengths.longest(256) * 0.011 + 0.25)


def test_passes_are_operations_by_ranks_and_speed() -> None:
    student = 3 * ATTEMPTS * forward_flops(SPEC, 149, 100) / 16 / 4e14
    teacher = ATTEMPTS * forward_flops(SPEC, 249, 100) / 16 / 4e14
    swap = 2 * 2 * (PARAMETERS / 4) * 0.75 / 5e10  # in and out, gathered over 4 copies
    assert model().student().seconds == pytest.approx(student)
    assert model().teacher().seconds == pytest.approx(teacher + swap)
    half = model(work={"taught": 0.5}).student().seconds
    assert half == pytest.approx(student / 2)


def test_a_pipeline_pays_for_its_ends() -> None:
    from sdpo_megatron.actor.model.config import ParallelConfig

    place = {"parallel": ParallelConfig(tensor=2, sequence_parallel=True, pipeline=2)}
    two = model(cluster=place)
    # 256 x (150 + 100) tokens over 4 copies are one micro-batch of 18,432.
    assert two.micro_batches() == 1
    assert two.student().seconds == pytest.approx(2 * model().student().seconds)


def test_gradients_hide_behind_the_last_backward_pass() -> None:
    def uncovered(*overrides: str) -> float:
        found = model(overrides=overrides)
        held = PARAMETERS / 4
        update = held / 4 * (28 + 12) / 1e12
        return found.optimizer().seconds - update - 2 * held * 0.75 / 5e10

    reduce = 4 * PARAMETERS / 4 * 0.75 / 5e10
    hidden = model().student().seconds * 2 / 3
    assert uncovered("parallel.overlap_grad_reduce=false") == pytest.approx(reduce)
    assert uncovered() == pytest.approx(max(0.0, reduce - hidden), abs=1e-9)


@pytest.mark.parametrize(
    ("transport", "seconds"),
    [
        # One machine writes at 2 GB/s; two read at 2 GB/s each.
        ("disk", 2 * PARAMETERS / 2e9 + 2 * 2 * PARAMETERS / 4e9),
        ("distributed", 2 * PARAMETERS / 5e10),
        ("tensor", 2 * PARAMETERS / 1e10),
    ],
)
def test_publishing_by_transport(transport: str, seconds: float) -> None:
    assert model(transport=transport).publish().seconds == pytest.approx(seconds + 0.5)


def test_a_checkpoint_waits_for_the_copy_alone_or_for_the_disk() -> None:
    state = 16 * PARAMETERS  # master, two moments, EMA
    behind = model(overrides=("run.checkpoint_every=10",))
    assert behind.state_bytes() == state
    assert behind.checkpoint().seconds == pytest.approx(state / 16 / 1e10 / 10)
    assert behind.checkpoint_write_s() == pytest.approx(state / 4e9)
    waits = model(overrides=("run.checkpoint_every=10", "run.checkpoint_in_background=false"))
    assert waits.checkpoint().seconds == pytest.approx(state / 4e9 / 10)


def test_the_busiest_comes_first_and_says_what_to_change() -> None:
    found = loads(model(cluster={"judges": 1}))
    assert found[0].name == "verifiers"
    assert found[0].seconds == pytest.approx(ATTEMPTS * 0.25)
    assert "judge.workers" in found[0].change
    assert [load.seconds for load in found] == sorted(
        (load.seconds for load in found), reverse=True
    )
    slow_disk = loads(model(speeds={"disk_bytes_s": 1e8, "shared_bytes_s": 1e8}))
    assert slow_disk[0].name == "publishing"
    assert "transport=distributed" in slow_disk[0].change


def test_staleness_spreads_the_longest_attempt_over_steps() -> None:
    def longest(staleness: int) -> float:
        found = {load.name: load.seconds for load in loads(model(), staleness)}
        return found["the longest attempt"]

    assert longest(0) == pytest.approx(100 * 0.011)
    assert longest(3) == pytest.approx(longest(0) / 4)


def test_a_synchronous_step_is_the_sum_of_its_phases() -> None:
    one = model(speeds={"step_s": 1.5})
    assert synchronous_s(one) == pytest.approx(sum(phase.seconds for phase in one.phases()) + 1.5)


def test_failures_cost_half_an_interval_and_a_restart() -> None:
    one = model(overrides=("run.checkpoint_every=10",))
    step = loads(one)[0].seconds
    lost = 10 * step / 2 + 300 + one.checkpoint_load_s()
    every = 1000 * 3600 / 2
    assert goodput(one, machine_mtbf_h=1000, restart_s=300) == pytest.approx(every / (every + lost))
