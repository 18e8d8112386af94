"""The samples of one optimiser step as this rank's micro-batches, packed for each role once."""

from __future__ import annotations

from sdpo_megatron.actor.batches import context_parallel
from sdpo_megatron.actor.batches.packing import PackedSequences, Role, pack
from sdpo_megatron.actor.batches.share import StepShare
from sdpo_megatron.actor.config import ActorConfig
from sdpo_megatron.actor.runtime import Runtime
from sdpo_megatron.nouns import TrainSample


class Minibatch:
    """A share of an optimiser step on this rank.

    Attributes:
        share: What it was made of.
        mine: Its samples by micro-batch.
    """

    def __init__(
        self, config: ActorConfig, runtime: Runtime, share: StepShare[TrainSample]
    ) -> None:
        self.share, self.mine = share, share.micro_batches
        self._cut = config.parallel.sequence_cut
        self._device = runtime.device
        self._packed: dict[Role, list[PackedSequences]] = {}

    def packed(self, roles: set[Role]) -> dict[Role, list[PackedSequences]]:
        """The micro-batches under the prompts of each role, all padded to one length per role."""
        for role in sorted(roles - self._packed.keys()):
            length = self.share.lengths[role]
            self._packed[role] = [
                self._part(pack(chosen, role, length, self._device, sequence_multiple=self._cut))
                for chosen in self.mine
            ]
        return {role: self._packed[role] for role in roles}

    def _part(self, packed: PackedSequences) -> PackedSequences:
        """This context-parallel rank's part."""
        from megatron.core import parallel_state

        size = parallel_state.get_context_parallel_world_size()
        rank = parallel_state.get_context_parallel_rank()
        return context_parallel.shard(packed, rank, size) if size > 1 else packed
