"""What one optimiser step trains on, and how this rank sees it: packed micro-batches."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sdpo_megatron.actor.batches import context_parallel
from sdpo_megatron.actor.batches.packing import (
    PackedSequences,
    Role,
    pack,
    padded_length,
    partition,
    sequence_length,
)
from sdpo_megatron.actor.config import ActorConfig, BatchConfig
from sdpo_megatron.actor.runtime import Runtime
from sdpo_megatron.nouns import TrainSample


def optimizer_steps(
    samples: Sequence[TrainSample], config: BatchConfig, *, seed: int, batch: int
) -> list[list[TrainSample]]:
    """The samples of rollout batch number `batch` (from 0) by optimiser step; all in one for
    `questions_per_step` 0.
    """
    per_step = config.questions_per_step
    if config.composition == "shuffled" and per_step:
        return split_shuffled(samples, config.questions // per_step, seed=seed, batch=batch)
    return split_by_questions(samples, per_step)


def split_shuffled(
    samples: Sequence[TrainSample], num_steps: int, *, seed: int, batch: int
) -> list[list[TrainSample]]:
    """Samples dealt over `num_steps` steps whatever their question: sorted by length, and each run
    of `num_steps` neighbours given out in an order drawn from seed and batch number.

    So steps hold equally many attempts of like lengths, and few at one question, as those of the
    authors' runs, whose `balance_batch` sorts attempts over ranks before ranks cut them into steps.
    Theirs depends on the number of ranks; this does not.
    """
    draw = random.Random(f"{seed}:{batch}")
    steps: list[list[TrainSample]] = [[] for _ in range(num_steps)]
    by_length = sorted(
        samples, key=lambda s: (-sequence_length(s, "student"), s.question_id, s.index)
    )
    for start in range(0, len(by_length), num_steps):
        order = draw.sample(range(num_steps), num_steps)
        for step, sample in zip(order, by_length[start : start + num_steps], strict=False):
            steps[step].append(sample)
    return [step for step in steps if step]


def split_by_questions(samples: Sequence[TrainSample], questions: int) -> list[list[TrainSample]]:
    """Samples of `questions` questions each, in order; all in one for 0."""
    if not questions:
        return [list(samples)]
    order = list(dict.fromkeys(sample.question_id for sample in samples))
    return [
        [s for s in samples if s.question_id in chosen]
        for start in range(0, len(order), questions)
        for chosen in [set(order[start : start + questions])]
    ]


class Minibatch:
    """The samples of one optimiser step as this rank's micro-batches, packed for each role once."""

    def __init__(
        self, config: ActorConfig, runtime: Runtime, samples: Sequence[TrainSample]
    ) -> None:
        from megatron.core import parallel_state

        plan = partition(
            samples,
            num_ranks=parallel_state.get_data_parallel_world_size(),
            token_budget=config.batch.micro_batch_tokens,
        )
        self._all = [[samples[i] for i in chosen] for rank in plan for chosen in rank]
        self.mine = [
            [samples[i] for i in chosen] for chosen in plan[parallel_state.get_data_parallel_rank()]
        ]
        parallel = config.parallel
        self._multiple = config.precision.sequence_multiple(parallel)
        self._cut = 2 * parallel.context if parallel.context > 1 else 1
        self._device = runtime.device
        self._packed: dict[Role, list[PackedSequences]] = {}

    def packed(self, roles: set[Role]) -> dict[Role, list[PackedSequences]]:
        """The micro-batches under the prompts of each role, all padded to one length per role."""
        for role in sorted(roles - self._packed.keys()):
            length = padded_length(
                self._all, role, multiple_of=self._multiple, sequence_multiple=self._cut
            )
            self._packed[role] = [
                self._share(pack(chosen, role, length, self._device, sequence_multiple=self._cut))
                for chosen in self.mine
            ]
        return {role: self._packed[role] for role in roles}

    def _share(self, packed: PackedSequences) -> PackedSequences:
        """This context-parallel rank's part."""
        from megatron.core import parallel_state

        size = parallel_state.get_context_parallel_world_size()
        rank = parallel_state.get_context_parallel_rank()
        return context_parallel.shard(packed, rank, size) if size > 1 else packed
