"""What an optimiser step holds: whole questions, or attempts drawn from the batch as in the
authors' runs.
"""

from __future__ import annotations

import math
import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo_megatron.actor.batches.composition import (
    optimizer_steps,
    split_by_questions,
    split_shuffled,
)
from sdpo_megatron.actor.batches.packing import sequence_length
from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.actor.config import BatchConfig
from sdpo_megatron.nouns import TrainSample
from tests.actor.batches.test_batch_loss import made_up_losses, ours
from tests.actor.worlds import made_up_samples

PAPER = BatchConfig(questions=32, questions_per_step=1, composition="shuffled")
BATCH = made_up_samples(0, questions=32, attempts=8)

Key = tuple[str, int]


def steps_of(
    samples: list[TrainSample], config: BatchConfig, seed: int = 0, batch: int = 0
) -> list[list[TrainSample]]:
    rows = optimizer_steps(SampleTable.of_samples(samples), config, seed=seed, batch=batch)
    return [[samples[row] for row in step] for step in rows]


def keys(steps: list[list[TrainSample]]) -> list[list[Key]]:
    return [[(s.question_id, s.index) for s in step] for step in steps]


def shuffled(seed: int = 0, batch: int = 0) -> list[list[TrainSample]]:
    return steps_of(BATCH, PAPER, seed, batch)


def test_every_attempt_is_in_exactly_one_step_and_steps_are_of_one_size() -> None:
    steps = keys(shuffled())
    assert [len(step) for step in steps] == [8] * 32
    assert sorted(key for step in steps for key in step) == sorted(keys([BATCH])[0])


def test_a_step_of_8_attempts_holds_about_7_questions() -> None:
    """Eight draws without replacement from 32 x 8 attempts hold 7.27 questions on average."""
    expected = 32 * (1 - math.comb(248, 8) / math.comb(256, 8))
    assert expected == pytest.approx(7.27, abs=0.005)
    found = [
        len({question for question, _ in step}) for b in range(8) for step in keys(shuffled(0, b))
    ]
    assert mean(found) == pytest.approx(expected, abs=0.25)
    by_question = BatchConfig(questions=32, questions_per_step=1)
    assert all(len({s.question_id for s in step}) == 1 for step in steps_of(BATCH, by_question))


def test_steps_are_balanced_in_tokens() -> None:
    """Each takes one attempt of every run of 32 neighbours in length: sums differ by less than the
    longest attempt.
    """
    sums = [sum(sequence_length(s, "student") for s in step) for step in shuffled()]
    assert max(sums) - min(sums) <= max(sequence_length(s, "student") for s in BATCH)


def test_seed_and_batch_decide_and_nothing_else() -> None:
    mixed = list(BATCH)
    random.Random(1).shuffle(mixed)
    first = keys(shuffled())
    assert keys(steps_of(mixed, PAPER)) == first
    assert keys(shuffled(batch=1)) != first
    assert keys(shuffled(seed=1)) != first


@given(num_samples=st.integers(1, 40), num_steps=st.integers(1, 12))
def test_lost_attempts_leave_steps_that_differ_by_one(num_samples: int, num_steps: int) -> None:
    table = SampleTable.of_samples(BATCH[:num_samples])
    steps = split_shuffled(table, num_steps, seed=0, batch=0)
    sizes = [len(step) for step in steps]
    assert sum(sizes) == num_samples
    assert len(steps) == min(num_steps, num_samples)
    assert max(sizes) - min(sizes) <= 1


def test_the_steps_of_a_batch_add_up_to_the_mean_over_all_its_samples() -> None:
    """In float64, at fixed weights: the steps' losses average to the loss of the batch as one."""
    losses = made_up_losses(BATCH)
    whole = ours("seq_mean_token_mean", [BATCH], losses)
    parts = [ours("seq_mean_token_mean", [step], losses) for step in shuffled()]
    assert mean(parts) == pytest.approx(whole, rel=1e-6)


def test_without_steps_to_compose_the_batch_stays_as_it_is() -> None:
    table, everything = SampleTable.of_samples(BATCH), list(range(len(BATCH)))
    config = BatchConfig(questions=32, composition="shuffled")
    assert optimizer_steps(table, config, seed=0, batch=0) == [everything]
    by_question = BatchConfig(questions=32, questions_per_step=8)
    expected = [everything[start : start + 64] for start in range(0, 256, 64)]
    assert optimizer_steps(table, by_question, seed=0, batch=0) == expected


def test_a_question_that_comes_twice_is_in_one_step_with_all_its_attempts() -> None:
    first, second = BATCH[:8], BATCH[8:16]
    table = SampleTable.of_samples([*first, *second, *first])
    assert split_by_questions(table, 1) == [[*range(8), *range(16, 24)], [*range(8, 16)]]
