"""The passes over a chunk of logits, in torch: the reference, and what a CPU runs.

    scan        the maximum of each row, and what top-K and normaliser can take from the same pass
    topk        this rank's K largest of each row
    sums        partial sums of the softmax outside the support
    logit_grad  the gradient of the loss with respect to the logits

`kernels.TritonPasses` does the same on CUDA in fewer passes. Functions below join either of them
over the ranks. Shapes: C tokens of a chunk, V rows of this rank, K support, S queried ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from sdpo_megatron.objectives.fused.shards import Normaliser, VocabShard, combine
from sdpo_megatron.objectives.fused.topk import block_maxima, blocked_topk_first

# Elements of logits treated at once between reading and writing memory: half of a core's L2 cache;
# on a GPU, enough to fill it.
SLICE_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 25}
FAR_BELOW = -1e30  # added to a logit, takes it out of every sum; finite, so that 0 times it is 0
Keep = Literal["logits", "powers", "nothing"]


@dataclass(frozen=True)
class Scan:
    """What one pass over the logits has found.

    Attributes:
        maximum: [C], of each row; the lowest finite float where V is 0.
        blocks: What the implementation found block by block, for `sums`.
        ranking: The same for `topk`, which empties it: it is called once.
    """

    maximum: Tensor
    blocks: tuple[Tensor, ...] = ()
    ranking: list[Tensor] = field(default_factory=list)


class Passes(Protocol):
    """See the module. `logits` is [C, V], V > 0, wherever `Scan` is not made by `scan`."""

    def scan(self, logits: Tensor, *, topk: bool) -> Scan:
        """Look at every logit once; `topk`: `topk` will be called."""

    def topk(self, logits: Tensor, scan: Scan, k: int) -> tuple[Tensor, Tensor]:
        """Values and indices [C, k] of the k largest of each row, as `topk_first` chooses."""

    def sums(
        self, logits: Tensor, scan: Scan, support: Tensor, *, keep: Keep
    ) -> tuple[Tensor, Tensor]:
        """(sum exp(x - m), sum exp(x - m) (x - m)) [C] over the logits that are not far below.

        `support` [C, K] are the indices whose logits were lowered after the scan, others among
        them. What `logits` holds afterwards is said by `normalise`.
        """

    def logit_grad(
        self,
        shard: VocabShard,
        logits: Tensor,
        scan: Scan,
        factor: Tensor,
        ids: Tensor,
        at: Tensor,
        scratch: Tensor | None,
    ) -> Tensor:
        """[C, V]: factor exp(x - m) everywhere, plus `at` [C, S] at global `ids` [C, S]; the last
        column is the sampled token, which may be one of the others as well. After `sums` with keep
        "powers". Written over the logits, in float32, or over `scratch`, which is like them, in the
        products' dtype.
        """


class TorchPasses:
    """The reference."""

    def scan(self, logits: Tensor, *, topk: bool) -> Scan:
        if logits.shape[1] == 0:
            return Scan(logits.new_full((logits.shape[0],), torch.finfo(logits.dtype).min))
        if not topk:
            return Scan(logits.amax(-1))
        maxima = block_maxima(logits)
        return Scan(maxima.amax(-1), ranking=[maxima])

    def topk(self, logits: Tensor, scan: Scan, k: int) -> tuple[Tensor, Tensor]:
        return blocked_topk_first(logits, scan.ranking.pop(), k)

    def sums(
        self, logits: Tensor, scan: Scan, support: Tensor, *, keep: Keep
    ) -> tuple[Tensor, Tensor]:
        rest, weighted = torch.zeros_like(scan.maximum), torch.zeros_like(scan.maximum)
        steps = slices(logits)
        for start in steps:
            rows = slice(start, start + steps.step)
            shifted = logits[rows] - scan.maximum[rows, None]
            powers = torch.exp(shifted, out=logits[rows]) if keep == "powers" else shifted.exp()
            rest[rows] = powers.sum(-1)
            weighted[rows] = torch.linalg.vecdot(powers, shifted)
        return rest, weighted

    def logit_grad(
        self,
        shard: VocabShard,
        logits: Tensor,
        scan: Scan,
        factor: Tensor,
        ids: Tensor,
        at: Tensor,
        scratch: Tensor | None,
    ) -> Tensor:
        local, here = shard.locate(ids)
        return logits.mul_(factor[:, None]).scatter_add_(1, local, at.masked_fill(~here, 0.0))


def slices(logits: Tensor) -> range:
    """Starts of row slices that fit the cache; the step is the height of a slice."""
    limit = SLICE_ELEMENTS.get(logits.device.type, SLICE_ELEMENTS["cuda"])
    return range(0, logits.shape[0], max(1, limit // max(1, logits.shape[1])))


def global_topk(passes: Passes, shard: VocabShard, logits: Tensor, k: int) -> tuple[Tensor, Scan]:
    """Global ids [C, k] of the k largest logits of each row over all ranks, and the scan of this
    rank's.
    """
    scan = passes.scan(logits, topk=True)
    if shard.rows == 0:
        none = logits.new_empty((logits.shape[0], 0))
        return shard.merge_topk(none, none.to(torch.int64), k), scan
    values, ids = passes.topk(logits, scan, min(k, shard.rows))
    return shard.merge_topk(values, ids + shard.start, k), scan


def normalise(
    passes: Passes,
    shard: VocabShard,
    logits: Tensor,
    scan: Scan,
    ids: Tensor,
    num_support: int,
    *,
    keep: Keep,
) -> tuple[Normaliser, Tensor]:
    """log Z, entropy and mass outside the support of each row of `logits` [C, V] over all ranks,
    and its logits at `ids`.

    Args:
        passes: What does the work.
        shard: Where this rank stands.
        logits: [C, V], this rank's.
        scan: Of them.
        ids: [C, S], global ids.
        num_support: The first so many columns of `ids` are the support (no id twice).
        keep: What `logits` holds afterwards: "logits" (num_support must be 0), "powers", which is
            what `Passes.logit_grad` takes, or "nothing" of use.

    Returns:
        The normaliser, and the logits [C, S] at the ids.
    """
    assert keep != "logits" or num_support == 0
    maximum = scan.maximum
    picked = shard.pick(logits, ids)
    rest, weighted = torch.zeros_like(maximum), torch.zeros_like(maximum)
    local, here = shard.locate(ids[:, :num_support])
    if num_support and shard.rows:
        # Out of the sums: exp gives 0 there, and 0 times a finite number is 0.
        logits.scatter_add_(1, local, here.to(logits.dtype) * FAR_BELOW)
    if shard.rows:
        rest, weighted = passes.sums(logits, scan, local, keep=keep)
    total = rest
    if num_support and shard.rows:
        shifted = picked[:, :num_support] - maximum[:, None]
        powers = shifted.exp().masked_fill_(~here, 0.0)
        total = rest + powers.sum(-1)
        weighted = weighted + (powers * shifted).sum(-1)
    return combine(shard, maximum, rest, total, weighted, picked)
