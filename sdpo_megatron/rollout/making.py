"""From a lease to a receipt: a question's attempts, their verdicts, what the teacher is shown, and
the group's file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from sdpo_megatron.nouns import (
    Group,
    GroupLease,
    GroupReceipt,
    PolicyVersion,
    Question,
    TrainSample,
)
from sdpo_megatron.rollout.batch import BatchMaker
from sdpo_megatron.rollout.desk import NEWEST, OLDEST, SIGNAL
from sdpo_megatron.rollout.group_file import read_receipt, write_group
from sdpo_megatron.rollout.sampler import JudgeAttempt, OnAttempt, Sampler
from sdpo_megatron.rollout.store import RolloutStore
from sdpo_megatron.rollout.summary import group_sums, teacher_sums

SUMS = "sums"  # in a receipt's notes: what `summary` makes metrics of


class GroupMaker:
    """Makes the groups of one rollout worker."""

    def __init__(
        self,
        sampler: Sampler,
        judge: JudgeAttempt,
        batches: BatchMaker,
        folder: Path,
        *,
        null_prompts: bool,
    ) -> None:
        """`folder` is the run's for rollouts; `null_prompts` as in `BatchMaker.make`."""
        self._sampler, self._judge, self._batches = sampler, judge, batches
        self._store, self._folder = RolloutStore(folder), folder / "groups"
        self._null_prompts = null_prompts

    async def make(
        self,
        lease: GroupLease,
        question: Question,
        version: PolicyVersion | None,
        step_seed: int,
        on_attempt: OnAttempt,
        on_start: Callable[[], None],
    ) -> GroupReceipt:
        """One group, written; arguments as of `Sampler.sample_group`.

        The texts are on the disk before the samples: a group that can be trained on can be read.

        Raises:
            EngineError: As `Sampler.sample_group`.
            CheckpointError, GroupFileError: It could not be written.
        """
        group = await self._sampler.sample_group(
            question, self._judge, version, step_seed, on_attempt, on_start
        )
        return await asyncio.to_thread(self._write, lease, group)

    def _write(self, lease: GroupLease, group: Group) -> GroupReceipt:
        samples, contexts = self._batches.make_group(group, null_prompts=self._null_prompts)
        self._store.write_group(lease.name, group)
        receipt = write_group(
            self._folder,
            lease,
            group.question.id,
            samples,
            attempts=len(group.attempts),
            dropped=group.dropped,
            notes={
                NEWEST: max((s.version for one in samples for s in one.versions), default=None),
                OLDEST: [min(s.version for s in one.versions) for one in samples if one.versions],
                SIGNAL: has_signal(samples),
                SUMS: group_sums(group) | teacher_sums(contexts),
            },
        )
        return receipt or read_receipt(self._folder / f"{lease.name}.bin")


def has_signal(samples: Sequence[TrainSample]) -> bool:
    """Whether any attempt of a group moves the policy: it is distilled, or has an advantage."""
    return any(
        sample.distill_weight or (sample.policy_weight and sample.advantage) for sample in samples
    )
