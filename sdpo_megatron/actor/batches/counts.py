"""The denominators of an optimiser step, over all ranks: counted once, by whoever plans it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.objectives import GlobalCounts


@dataclass(frozen=True)
class StepCounts:
    """Totals of an optimiser step over all ranks, for each term."""

    distill: GlobalCounts
    policy: GlobalCounts

    @classmethod
    def of(cls, table: SampleTable, rows: Sequence[int] | None = None) -> StepCounts:
        """Of these rows; of all by default."""
        chosen = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)

        def counts(weight: NDArray[np.float64]) -> GlobalCounts:
            trained = table.trained[chosen][weight[chosen] != 0]
            return GlobalCounts(tokens=int(trained.sum()), samples=len(chosen))

        return cls(counts(table.distill_weight), counts(table.policy_weight))

    @property
    def trained_tokens(self) -> int:
        return max(self.distill.tokens, self.policy.tokens)
