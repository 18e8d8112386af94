"""Turn the shards of the ranks of one pipeline stage back into Hugging Face tensors, by buckets.

Both ends of a transfer know its contents from the plan: each holder sends its share of a bucket to
the stage's first rank as one flat tensor, and that puts the pieces in place, in the dtype that is
wanted. Nothing crosses a stage's border, and no rank holds more than one bucket besides its own
parameters and what it was given buffers for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist

from sdpo_megatron.weights.bucket import Bucket, TensorMeta, total_bytes
from sdpo_megatron.weights.layout import Chunks, current_position, local_params
from sdpo_megatron.weights.mapping import Param
from sdpo_megatron.weights.spec import ModelSpec
from sdpo_megatron.weights.stage_plan import StagePlan, plan_stage

Buffers = Callable[[int], torch.Tensor]
"""Gives a uint8 tensor of that many bytes, which the bucket then owns."""


class StageGather:
    """One rank's part in gathering its pipeline stage. Made anew is cheap; it talks to nobody.

    Attributes:
        stage: This rank's pipeline stage, of `num_stages`.
        plan: Of this stage.
        is_sender: Whether this rank ends up with the whole tensors: the stage's first one.
        device: Where its parameters lie.
    """

    def __init__(
        self,
        chunks: Chunks,
        spec: ModelSpec,
        dtype: torch.dtype | None = None,
        bucket_mib: int = 0,
    ) -> None:
        """`dtype` is of what travels; None means the parameters' own."""
        here = current_position()
        held = local_params(chunks, spec, here)
        self._tensors = {param.name: tensor.detach() for param, tensor in held}
        self._own_dtype, self.device = held[0][1].dtype, held[0][1].device
        self.plan: StagePlan = plan_stage(spec, here, dtype or self._own_dtype, bucket_mib)
        self.stage, self.num_stages = here.pp, here.pp_size
        self._first = self.sender_of(here.pp)
        self._place = dist.get_rank() - self._first
        if self._place < len(self.plan.positions):
            planned = self.plan.positions[self._place]
            assert planned == here, f"ranks are not numbered as planned: {planned} is {here}"
        self.is_sender = self._place == 0

    def sender_of(self, stage: int) -> int:
        """The global rank that gathers `stage`."""
        return stage * (dist.get_world_size() // self.num_stages)

    @torch.no_grad()
    def buckets(self, buffers: Buffers | None = None) -> Iterator[Bucket | None]:
        """The stage's buckets: whole on its first rank, None elsewhere.

        Collective over the holders of the stage: each must run it to its end. The other ranks of
        the stage yield the same number of None at once.

        Args:
            buffers: Where the first rank gathers into; None: fresh tensors on its own device.
        """
        buffers = buffers or (lambda size: torch.empty(size, dtype=torch.uint8, device=self.device))
        for metas, moves in zip(self.plan.buckets, self.plan.moves, strict=True):
            if self._place >= len(moves):
                yield None
            elif not self.is_sender:
                self._send(moves[self._place])
                yield None
            else:
                yield self._collect(metas, moves, buffers)

    def _send(self, mine: Sequence[Param]) -> None:
        if mine:
            flat = torch.cat([self._tensors[param.name].reshape(-1) for param in mine])
            dist.send(flat, dst=self._first)

    def _collect(
        self, metas: Sequence[TensorMeta], moves: Sequence[Sequence[Param]], buffers: Buffers
    ) -> Bucket:
        coming = [
            (part, self._receive(place, part))
            for place, part in enumerate(moves)
            if place > 0 and part
        ]
        bucket = Bucket(tuple(metas), buffers(total_bytes(metas)))
        whole = dict(bucket.tensors())
        for param in moves[0]:
            _put(param, self._tensors[param.name], whole)
        for part, (flat, work) in coming:
            work.wait()
            sizes = [math.prod(param.shape) for param in part]
            for param, values in zip(part, torch.split(flat, sizes), strict=True):
                _put(param, values.view(param.shape), whole)
        return bucket

    def _receive(self, place: int, part: Sequence[Param]) -> tuple[torch.Tensor, dist.Work]:
        size = sum(math.prod(param.shape) for param in part)
        flat = torch.empty(size, dtype=self._own_dtype, device=self.device)
        work = dist.irecv(flat, src=self._first + place)
        assert work is not None
        return flat, work


def iter_hf_tensors(
    chunks: Chunks, spec: ModelSpec, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every Hugging Face tensor of the model, by name, in the order of `mapping.hf_shapes`, on
    rank 0; nothing on the other ranks.

    Collective over the world: every rank must run it to its end. Stages after the first send their
    buckets to rank 0, in turn.

    Args:
        chunks: This rank's model chunks, DDP-wrapped or not.
        dtype: Of the yielded tensors; None means the parameters' own.
    """
    gather = StageGather(chunks, spec, dtype)
    for bucket in gather.buckets():
        if dist.get_rank() == 0:
            assert bucket is not None
            yield from bucket.tensors()
        elif bucket is not None:
            dist.send(bucket.flat, dst=0)
    if dist.get_rank() == 0:
        here = current_position()
        for stage in range(1, gather.num_stages):
            plan = plan_stage(spec, here.at_stage(stage), gather.plan.buckets[0][0].dtype)
            for metas in plan.buckets:
                flat = torch.empty(total_bytes(metas), dtype=torch.uint8, device=gather.device)
                dist.recv(flat, src=gather.sender_of(stage))
                yield from Bucket(metas, flat).tensors()


def _put(param: Param, values: torch.Tensor, whole: dict[str, torch.Tensor]) -> None:
    for piece in param.pieces:
        size = piece.hf_stop - piece.hf_start
        target = whole[piece.hf].narrow(piece.axis, piece.hf_start, size)
        target.copy_(values.narrow(piece.axis, piece.start, size))
