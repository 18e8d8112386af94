"""The vocabulary, split by rows over tensor-parallel ranks; every collective of the loss is here.

Rank r holds rows [r Vp, (r + 1) Vp) of the head. Megatron pads the vocabulary to a multiple of TP;
rows at or beyond the real size are left out of every product, so no padded id can enter a
normaliser or a support.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from sdpo_megatron.objectives.fused.topk import key_ids, order_keys, topk_first


@dataclass(frozen=True)
class VocabShard:
    """This rank's part of the vocabulary.

    Attributes:
        start: Global id of the first row.
        rows: Number of real (not padded) rows; may be 0 on the last ranks.
        size: Real vocabulary size over all ranks.
        group: Tensor-parallel process group; None when the vocabulary is whole.
    """

    start: int
    rows: int
    size: int
    group: dist.ProcessGroup | None

    @classmethod
    def of(
        cls, weight: Tensor, vocab_size: int | None, group: dist.ProcessGroup | None
    ) -> VocabShard:
        """The shard of `weight` [Vp, H]. `vocab_size` None: no padding."""
        if group is not None and dist.get_world_size(group) == 1:
            group = None
        world, rank = (
            (1, 0) if group is None else (dist.get_world_size(group), dist.get_rank(group))
        )
        held = weight.shape[0]
        size = held * world if vocab_size is None else vocab_size
        if not 0 < size <= held * world:
            raise ValueError(f"vocab_size {size} does not fit {world} shards of {held} rows")
        return cls(
            start=rank * held, rows=min(max(size - rank * held, 0), held), size=size, group=group
        )

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, on every rank. Not differentiable; the input stays as it is."""
        if self.group is None or values.numel() == 0:
            return values
        total = values.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total

    def gather(self, values: Tensor) -> Tensor:
        """[...] -> [world, ...], in order of rank."""
        if self.group is None:
            return values.unsqueeze(0)
        world = dist.get_world_size(self.group)
        if values.numel() == 0:
            return values.new_empty((world, *values.shape))
        parts = [torch.empty_like(values) for _ in range(world)]
        dist.all_gather(parts, values.contiguous(), group=self.group)
        return torch.stack(parts)

    def locate(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Global ids -> (index into this shard, clamped into range; whether the id is here). Same
        shapes as `ids`.
        """
        local = ids - self.start
        here = (local >= 0) & (local < self.rows)
        return local.clamp(0, max(self.rows - 1, 0)), here

    def pick(self, logits: Tensor, ids: Tensor) -> Tensor:
        """This shard's logits [C, rows] at global `ids` [C, S].

        0 where another rank holds the id (then `sum`).
        """
        if self.rows == 0:
            return logits.new_zeros(ids.shape)
        local, here = self.locate(ids)
        return logits.gather(-1, local).masked_fill(~here, 0.0)

    def merge_topk(self, values: Tensor, ids: Tensor, k: int) -> Tensor:
        """The k best of all ranks' candidates: values [C, <= k] and their global ids -> ids [C, k].

        The same rule as `topk_first`: among equal values the lower id wins.
        """
        if self.group is None:
            return ids
        missing = k - values.shape[-1]
        if missing:  # fewer rows than k here: -inf never beats a real logit
            values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
            ids = torch.nn.functional.pad(ids, (0, missing), value=self.size)
        if values.dtype == torch.float32:  # value and id in one number, so one collective
            keys = self.gather(order_keys(values, ids)).movedim(0, 1).flatten(1)
            return key_ids(keys.topk(k, dim=-1).values)
        # float64: candidates lie rank after rank, and ids grow with rank, so position breaks ties.
        values = self.gather(values).movedim(0, 1).flatten(1)
        ids = self.gather(ids).movedim(0, 1).flatten(1)
        return ids.gather(-1, topk_first(values, k)[1])


@dataclass(frozen=True)
class Normaliser:
    """log Z of each row over the whole vocabulary, and what else one pass over the logits gives.

    All [C].

    Attributes:
        maximum: Of the logits.
        log_sum: log Z - maximum.
        log_rest: log of the mass outside the support; -inf for none.
        entropy: Entropy of the distribution, in nats.
        local_scale: Factor that turns this rank's exp(logit - local maximum) into probabilities.
    """

    maximum: Tensor
    log_sum: Tensor
    log_rest: Tensor
    entropy: Tensor
    local_scale: Tensor

    def log_probs(self, logits: Tensor) -> Tensor:
        """Logits [C, S] -> log-probabilities. By way of the maximum: a logit near it loses no
        digits to the size of log Z.
        """
        return self.log_probs_(logits.clone())

    def log_probs_(self, logits: Tensor) -> Tensor:
        """The same in the memory of `logits`."""
        return logits.sub_(self.maximum[:, None]).sub_(self.log_sum[:, None])


def combine(
    shard: VocabShard,
    maximum: Tensor,
    rest: Tensor,
    total: Tensor,
    weighted: Tensor,
    picked: Tensor,
) -> tuple[Normaliser, Tensor]:
    """Join the ranks' partial results, in one collective.

    Args:
        shard: Where this rank stands.
        maximum: [C], m = max of this rank's logits (the lowest finite float for no rows).
        rest: [C], sum exp(x - m) over this rank's ids outside the support.
        total: [C], sum exp(x - m) over all of this rank's ids.
        weighted: [C], sum exp(x - m) (x - m).
        picked: [C, S], logits of ids that this rank holds, 0 where it does not (`VocabShard.pick`).

    Returns:
        The normaliser, and the picked logits of all ranks together [C, S].
    """
    if shard.group is None:
        log_sum = total.log()
        own = Normaliser(
            maximum, log_sum, rest.log() - log_sum, log_sum - weighted / total, 1 / total
        )
        return own, picked
    partial = torch.cat([torch.stack([maximum, rest, total, weighted], dim=1), picked], dim=1)
    parts = shard.gather(partial)  # [world, C, 4 + S]
    maxima, rests, totals, weights = parts[:, :, :4].unbind(-1)
    top = maxima.amax(0)
    shift = maxima - top
    scale = shift.exp()
    z = (scale * totals).sum(0)
    log_sum = z.log()
    moved = weights + torch.where(totals > 0, shift * totals, 0.0)
    joined = Normaliser(
        maximum=top,
        log_sum=log_sum,
        log_rest=(scale * rests).sum(0).log() - log_sum,
        entropy=log_sum - (scale * moved).sum(0) / z,
        local_scale=(maximum - top).exp() / z,
    )
    return joined, parts[:, :, 4:].sum(0)
