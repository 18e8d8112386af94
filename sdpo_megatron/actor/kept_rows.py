"""Hidden states kept between two passes: each rank of a sequence holds a part of the rows.

All ranks that share a sequence (tensor- and context-parallel ones) compute the same final hidden
states. Kept whole they would be the largest thing on a rank: 70 B parameters, 8192 tokens an
attempt, 34 GB. So each keeps its share of every micro-batch's rows, and the ranks bring the rows of
one micro-batch together when its loss wants them. The values are the same, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class KeptRows:
    """The rows of one micro-batch, of which this rank holds a part.

    R rows of all, H hidden size, n ranks that share them.

    Attributes:
        mine: [at most ceil(R / n), H], on the device or in host memory.
        rows: R.
        group: Of the ranks that share; None where there is one.
        device: Where `whole` is wanted.
    """

    mine: torch.Tensor
    rows: int
    group: Any
    device: torch.device

    @classmethod
    def of(cls, hidden: torch.Tensor, group: Any, *, on_host: bool) -> KeptRows:
        """Keep this rank's part of `hidden` [R, H], which all ranks of `group` have whole.

        Args:
            on_host: Keep it in pinned host memory, where it is on a CUDA device.
        """
        mine = hidden
        if group is not None:
            share = _share(hidden.shape[0], group.size())
            mine = hidden[group.rank() * share :][:share]
        if on_host and hidden.is_cuda:
            mine = torch.empty_like(mine, device="cpu", pin_memory=True).copy_(
                mine, non_blocking=True
            )
        elif group is not None:
            mine = mine.clone()  # a view would keep all rows
        return cls(mine, hidden.shape[0], group, hidden.device)

    def whole(self) -> torch.Tensor:
        """[R, H]; collective over the group. Where there is none, still in host memory if it is
        kept there.
        """
        if self.group is None:
            return self.mine
        mine = self.mine.to(self.device, non_blocking=True)
        share = _share(self.rows, self.group.size())
        padded = mine.new_zeros(share, mine.shape[1])
        padded[: mine.shape[0]] = mine
        out = mine.new_empty(share * self.group.size(), mine.shape[1])
        torch.distributed.all_gather_into_tensor(out, padded, group=self.group)
        return out[: self.rows]


def _share(rows: int, ranks: int) -> int:
    return -(-rows // ranks)


def sharing_group() -> Any:
    """The ranks that compute on the same sequences as this one; None where it is alone."""
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_and_context_parallel_group()
    return group if group.size() > 1 else None
