"""Where a run stands; saved with every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from sdpo_megatron.nouns import PolicyVersion


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Counters of a run.

    Attributes:
        step: Rollout batches done; the data position is a function of it.
        optimizer_steps: Optimiser steps taken.
        version: Of the live weights. It grows with each step that changed them.
        skipped_steps: Steps without any teacher or policy signal, where no optimiser step was taken.
    """

    step: int = 0
    optimizer_steps: int = 0
    version: PolicyVersion = PolicyVersion(0)
    skipped_steps: int = 0
