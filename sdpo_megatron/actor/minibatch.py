"""What one optimiser step trains on, and how this rank sees it: packed micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

from sdpo_megatron.actor import context_parallel
from sdpo_megatron.actor.config import ActorConfig
from sdpo_megatron.actor.packing import PackedSequences, Role, pack, padded_length, partition
from sdpo_megatron.actor.runtime import Runtime
from sdpo_megatron.nouns import TrainSample


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
