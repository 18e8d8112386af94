"""`Passes` by the kernels: what is launched, and the small steps between."""

from __future__ import annotations

import torch
from torch import Tensor

from sdpo_megatron.objectives.fused.kernels.device import (
    candidates_kernel,
    gradient_kernel,
    join_kernel,
    scan_kernel,
)
from sdpo_megatron.objectives.fused.passes import Keep, Scan
from sdpo_megatron.objectives.fused.shards import VocabShard
from sdpo_megatron.objectives.fused.topk import BLOCK, key_ids

_BLOCKS_A_PROGRAM = 64  # 2048 logits
_JOINED_AT_ONCE = 1024
_LOGITS_A_PROGRAM = 4096


class TritonPasses:
    """See `objectives.fused.passes.Passes`; logits are float32."""

    def __init__(self, products: torch.dtype) -> None:
        """`products`: dtype of the head, in which the gradient is multiplied."""
        self._products = products

    def scan(self, logits: Tensor, *, topk: bool) -> Scan:
        rows, width = logits.shape
        if width == 0:
            return Scan(logits.new_full((rows,), torch.finfo(logits.dtype).min))
        blocks = -(-width // BLOCK)
        maxima, sums, weighted = (logits.new_empty((rows, blocks)) for _ in range(3))
        keys = torch.empty((rows, blocks if topk else 0), dtype=torch.int64, device=logits.device)
        if rows:
            scan_kernel[rows, -(-blocks // _BLOCKS_A_PROGRAM)](
                logits, maxima, sums, weighted, keys, width, blocks,
                WITH_KEYS=topk, BLOCK=BLOCK, TILE=_BLOCKS_A_PROGRAM,
            )  # fmt: skip
        return Scan(maxima.amax(-1), (maxima, sums, weighted), [keys])

    def topk(self, logits: Tensor, scan: Scan, k: int) -> tuple[Tensor, Tensor]:
        """The K largest lie in the K blocks with the largest maxima: `topk.blocked_topk_first`."""
        rows, width = logits.shape
        block_keys = scan.ranking.pop()
        count = min(k, block_keys.shape[1])
        # Any order: a candidate's key holds its index, and keys have no equals.
        chosen = key_ids(block_keys.topk(count, dim=-1, sorted=False).values)
        keys = torch.empty((rows, count * BLOCK), dtype=torch.int64, device=logits.device)
        if rows:
            candidates_kernel[rows, -(-count // _BLOCKS_A_PROGRAM)](
                logits, chosen, keys, width, count, BLOCK=BLOCK, TILE=_BLOCKS_A_PROGRAM
            )
        ids = key_ids(keys.topk(k, dim=-1).values)
        return logits.gather(-1, ids), ids

    def sums(
        self, logits: Tensor, scan: Scan, support: Tensor, *, keep: Keep
    ) -> tuple[Tensor, Tensor]:
        """The logits stay as they are whatever `keep` is: `logit_grad` reads them."""
        rows, width = logits.shape
        maxima, sums, weighted = scan.blocks
        touched = (support // BLOCK).sort(dim=-1).values
        # Theirs are outdated, and taken from the logits.
        sums.scatter_(1, touched, 0.0)
        weighted.scatter_(1, touched, 0.0)
        rest, rest_weighted = torch.empty_like(scan.maximum), torch.empty_like(scan.maximum)
        if rows:
            join_kernel[rows,](
                logits, scan.maximum, maxima, sums, weighted, touched, rest, rest_weighted,
                width, maxima.shape[1], touched.shape[1],
                BLOCK=BLOCK, TILE=_JOINED_AT_ONCE, TOUCHED_TILE=_BLOCKS_A_PROGRAM,
            )  # fmt: skip
        return rest, rest_weighted

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
        """In the products' dtype, each entry rounded once."""
        rows, width = logits.shape
        local, here = shard.locate(ids)
        token, sampled = ids[:, -1:], at[:, -1:]
        same = ids[:, :-1] == token
        support = (at[:, :-1] + same * sampled).masked_fill_(~here[:, :-1], 0.0)
        extra = sampled[:, 0].masked_fill(same.any(-1) | ~here[:, -1], 0.0)
        out = self._buffer(logits, scratch)
        if rows:
            gradient_kernel[rows, -(-width // _LOGITS_A_PROGRAM)](
                logits, out, scan.maximum, factor, local[:, -1].contiguous(), extra, width,
                TILE=_LOGITS_A_PROGRAM,
            )  # fmt: skip
        # The kernel wrote 0 at the support.
        return out.scatter_add_(1, local[:, :-1], support.to(out.dtype))

    def _buffer(self, logits: Tensor, scratch: Tensor | None) -> Tensor:
        """Where the gradient goes: over the logits, or, narrower, into the memory of `scratch`."""
        if logits.dtype == self._products:
            return logits
        if scratch is None:
            return torch.empty_like(logits, dtype=self._products)
        return scratch.view(-1).view(self._products)[: logits.numel()].view(logits.shape)
