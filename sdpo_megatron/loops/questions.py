"""Which questions a step asks: a function of seed and step, so the step is the data position; and
how many steps a run has.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.nouns import Question


def num_steps(config: TrainConfig, num_questions: int) -> int:
    """Rollout batches of the run: `run.steps`, or those that `run.epochs` passes over the questions
    fill, whichever is less. An epoch that does not fill its last batch shares it with the next one;
    what the last epoch leaves over is not asked. In a discovery, what all searches last at most.
    """
    if config.discovery is not None:
        return num_searches(config, num_questions) * batches_of_search(config)
    limits = [] if config.run.steps is None else [config.run.steps]
    if config.run.epochs is not None:
        limits.append(max(1, config.run.epochs * num_questions // config.batch.questions))
    return min(limits)


def batches_of_search(config: TrainConfig) -> int:
    """Rollout batches that a search of a discovery lasts at most."""
    assert config.discovery is not None
    return math.ceil(config.discovery.attempts / config.rollout.sampling.num_attempts)


def num_searches(config: TrainConfig, num_questions: int) -> int:
    """Of a discovery: every question once, then every question again, and so on."""
    assert config.discovery is not None
    return config.discovery.searches * num_questions


def questions_of_step(
    questions: Sequence[Question], step: int, *, per_step: int, seed: int
) -> list[Question]:
    """The questions of rollout batch `step` (from 0): epochs in a seeded order each, cut into
    batches that may span two epochs.
    """
    positions = range(step * per_step, (step + 1) * per_step)
    return [question_at(questions, position, seed=seed) for position in positions]


def question_at(questions: Sequence[Question], position: int, *, seed: int) -> Question:
    """The question at a position (from 0) in the order of the whole run."""
    epoch, place = divmod(position, len(questions))
    return questions[_order(len(questions), epoch, seed)[place]]


@functools.lru_cache(maxsize=2)  # a batch spans two epochs at most, as long as it is smaller
def _order(num: int, epoch: int, seed: int) -> list[int]:
    order = list(range(num))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return order
