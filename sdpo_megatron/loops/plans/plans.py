"""The plans of a run: made on receipts, written for all ranks, and gone when a checkpoint holds
what was learnt from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdpo_megatron.actor.batches.plan import StepPlanner
from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.actor.checkpoint import whole_checkpoints
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.loops.plans.file import write_plan
from sdpo_megatron.nouns import GroupReceipt
from sdpo_megatron.observability.run_folder import RunFolder
from sdpo_megatron.weights.spec import ModelSpec


class Plans:
    """Of rank 0."""

    def __init__(self, config: TrainConfig, folder: RunFolder) -> None:
        self._folder = folder
        self._planner = StepPlanner(
            config,
            ModelSpec.from_folder(config.model.path),
            num_ranks=config.run.data_parallel,
            seed=config.run.seed,
        )

    def write(self, step: int, groups: Sequence[GroupReceipt]) -> str:
        """Plan step `step` (from 1) on these groups; the plan's name in the folder of rollouts.

        Raises:
            ConfigError: A sample alone is longer than a micro-batch.
            GroupFileError: The plan could not be written.
        """
        plans = self._planner.plan(SampleTable.of_groups(groups), step - 1)
        self._folder.may_write()
        path = self._path(step)
        write_plan(path, step, plans, groups)
        return path.name

    def forget(self) -> None:
        """Delete the plans of steps that the newest checkpoint holds. (Their groups are the
        ledger's: an older checkpoint may ask for them.)
        """
        saved = whole_checkpoints(self._folder.checkpoints)
        newest = saved[-1][0] if saved else 0
        for path in self._folder.rollouts.glob("step-*.plan"):
            if path <= self._path(newest):
                self._folder.may_write()
                path.unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self._folder.rollouts / f"step-{step:06d}.plan"
