"""Passes through Megatron's pipeline schedule: forward only for hidden states, forward and backward
for the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sdpo_megatron.actor.batches.context_parallel import gather_responses
from sdpo_megatron.actor.batches.packing import PackedSequences

if TYPE_CHECKING:
    from megatron.core.packed_seq_params import PackedSeqParams

LossFunction = Callable[[int, torch.Tensor], tuple[torch.Tensor, Any]]
"""(micro-batch number, hidden [R, H] of its response tokens) -> (0-dim loss summed over its tokens,
what to report).
"""


class Pipeline:
    """The actor's model chunks under Megatron's schedule.

    R response tokens of a micro-batch, T its tokens, H hidden size. Collective over all ranks of
    the model; every rank must call with the same number of micro-batches of the same padded length.
    """

    def __init__(self, chunks: Sequence[Any]) -> None:
        """
        Args:
            chunks: DDP-wrapped model chunks of this rank, as the schedule wants them.
        """
        self.chunks = list(chunks)

    @torch.no_grad()
    def hidden_states(
        self,
        batches: Sequence[PackedSequences],
        keep: Callable[[torch.Tensor], Any] = lambda hidden: hidden,
    ) -> list[Any]:
        """Final hidden states [R, H] of each micro-batch's response tokens, whole on every
        context-parallel rank; an empty list before the last stage.

        `keep` takes each micro-batch's as soon as they are there, before the next one's: what it
        returns is all that stays.
        """

        def collect(hidden: torch.Tensor, batch: PackedSequences, number: int) -> Any:
            return lambda _output, non_loss_data=False: keep(
                _whole(_responses(hidden, batch), batch)
            )

        return self._run(batches, collect, forward_only=True)

    def forward_backward(self, batches: Sequence[PackedSequences], loss: LossFunction) -> list[Any]:
        """Accumulate gradients of the summed losses; returns what `loss` reports, per micro-batch
        (last stage only).
        """

        def attach(hidden: torch.Tensor, batch: PackedSequences, number: int) -> Any:
            def loss_func(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
                value, report = loss(number, _responses(output, batch))
                # The denominators are in the loss already; the schedule's own count of tokens stays
                # out of it.
                return value, torch.zeros((), dtype=torch.int, device=output.device), report

            return loss_func

        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        return self._run(batches, attach, forward_only=False)

    def _run(
        self,
        batches: Sequence[PackedSequences],
        make_loss_func: Callable[[torch.Tensor, PackedSequences, int], Any],
        *,
        forward_only: bool,
    ) -> list[Any]:
        from megatron.core.pipeline_parallel import get_forward_backward_func

        def forward_step(iterator: Iterator[tuple[int, PackedSequences]], model: Any) -> Any:
            number, batch = next(iterator)
            packed = packed_params(batch)
            hidden = model(batch.tokens, batch.position_ids, packed_seq_params=packed)
            return hidden, make_loss_func(hidden, batch, number)

        iterators = [iter(enumerate(batches)) for _ in self.chunks]
        return list(
            get_forward_backward_func()(
                forward_step_func=forward_step,
                data_iterator=iterators if len(iterators) > 1 else iterators[0],
                model=self.chunks if len(self.chunks) > 1 else self.chunks[0],
                num_microbatches=len(batches),
                seq_length=batches[0].tokens.shape[1],
                micro_batch_size=1,
                forward_only=forward_only,
                collect_non_loss_data=forward_only,
            )
        )


def packed_params(batch: PackedSequences) -> PackedSeqParams:
    """What attention is told about the sequences of a micro-batch."""
    from megatron.core.packed_seq_params import PackedSeqParams

    # Our boundaries are those of the padded sequences. Transformer Engine's attention under context
    # parallelism wants to be told so: flash-attn 2 asserts it.
    padded = None if batch.response_index is None else batch.cu_seqlens
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=batch.cu_seqlens,
        cu_seqlens_kv=batch.cu_seqlens,
        cu_seqlens_q_padded=padded,
        cu_seqlens_kv_padded=padded,
        max_seqlen_q=batch.max_seqlen,
        max_seqlen_kv=batch.max_seqlen,
    )


def _whole(local: torch.Tensor, batch: PackedSequences) -> torch.Tensor:
    if batch.response_index is None:
        return local
    from megatron.core import parallel_state

    return gather_responses(local, batch, parallel_state.get_context_parallel_group())


def _responses(hidden: torch.Tensor, batch: PackedSequences) -> torch.Tensor:
    """[T, 1, H] -> [R, H]: the states that predict response tokens."""
    return hidden.squeeze(1).index_select(0, batch.predictor_index)
