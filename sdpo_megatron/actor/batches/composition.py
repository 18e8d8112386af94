"""Which samples of a rollout batch make one optimiser step."""

from __future__ import annotations

import random

from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.actor.config import BatchConfig


def optimizer_steps(
    table: SampleTable, config: BatchConfig, *, seed: int, batch: int
) -> list[list[int]]:
    """Rows of rollout batch number `batch` (from 0) by optimiser step; all in one for
    `questions_per_step` 0.
    """
    per_step = config.questions_per_step
    if config.composition == "shuffled" and per_step:
        return split_shuffled(table, config.questions // per_step, seed=seed, batch=batch)
    return split_by_questions(table, per_step)


def split_shuffled(table: SampleTable, num_steps: int, *, seed: int, batch: int) -> list[list[int]]:
    """Rows dealt over `num_steps` steps whatever their question: sorted by length, and each run of
    `num_steps` neighbours given out in an order drawn from seed and batch number.

    So steps hold equally many attempts of like lengths, and few at one question, as those of the
    authors' runs, whose `balance_batch` sorts attempts over ranks before ranks cut them into steps.
    Theirs depends on the number of ranks; this does not.
    """
    draw = random.Random(f"{seed}:{batch}")
    steps: list[list[int]] = [[] for _ in range(num_steps)]
    length = table.tokens("student").tolist()
    by_length = sorted(
        range(len(table)), key=lambda row: (-length[row], table.question_ids[row], table.index[row])
    )
    for start in range(0, len(by_length), num_steps):
        order = draw.sample(range(num_steps), num_steps)
        for step, row in zip(order, by_length[start : start + num_steps], strict=False):
            steps[step].append(row)
    return [step for step in steps if step]


def split_by_questions(table: SampleTable, questions: int) -> list[list[int]]:
    """Rows of `questions` questions each, in order; all in one for 0."""
    if not questions:
        return [list(range(len(table)))]
    place = {name: number for number, name in enumerate(dict.fromkeys(table.question_ids))}
    steps: list[list[int]] = [[] for _ in range(0, len(place), questions)]
    for row, name in enumerate(table.question_ids):
        steps[place[name] // questions].append(row)
    return steps
