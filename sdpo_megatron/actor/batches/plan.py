"""The plan of a rollout batch, made once on lengths alone: which samples make an optimiser step,
and what each data-parallel rank computes of it.

Ranks are balanced by work, operations of all passes with attention's quadratic part, sample by
sample; micro-batches of a rank by tokens, since all are padded to one length (`packing`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdpo_megatron.actor.batches.composition import optimizer_steps
from sdpo_megatron.actor.batches.counts import StepCounts
from sdpo_megatron.actor.batches.packing import Role, padded_length, partition
from sdpo_megatron.actor.batches.share import BatchPlan, StepShare
from sdpo_megatron.actor.batches.table import Place, SampleTable
from sdpo_megatron.actor.config import ActorConfig
from sdpo_megatron.actor.teacher import passes_of
from sdpo_megatron.actor.work import BACKWARD, pass_flops
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.objectives import build_objective
from sdpo_megatron.weights.spec import ModelSpec


class StepPlanner:
    """Plans rollout batches of a run; a pure function of its arguments, on any machine."""

    def __init__(
        self, config: ActorConfig, spec: ModelSpec, *, num_ranks: int, seed: int = 0
    ) -> None:
        """
        Args:
            config: The actor's groups of the run's configuration.
            spec: Of the model, for the work of a sample.
            num_ranks: Data-parallel ranks.
            seed: Of the composition of optimiser steps.
        """
        self._config, self._spec = config, spec
        self._num_ranks, self._seed = num_ranks, seed
        objective = build_objective(config.objective)
        # Every sample is read by the teacher's passes, then forward and backward by the student;
        # off-policy objectives read it once more, before the first step.
        self._passes: list[Role] = [role for _, role in passes_of(config.teacher, objective)]
        self._passes += ["student"] * (1 + BACKWARD + objective.needs_old_log_probs)

    def plan(self, table: SampleTable, batch: int) -> list[BatchPlan]:
        """What each data-parallel rank does of rollout batch number `batch` (from 0).

        Raises:
            ConfigError: A sample alone is longer than `batch.micro_batch_tokens`.
        """
        self._check(table)
        work = sum(pass_flops(self._spec, table, role) for role in self._passes)
        steps = optimizer_steps(table, self._config.batch, seed=self._seed, batch=batch)
        planned = [self._step(table, rows, np.asarray(work)) for rows in steps]
        return [tuple(step[rank] for step in planned) for rank in range(self._num_ranks)]

    def _step(
        self, table: SampleTable, rows: Sequence[int], work: np.ndarray
    ) -> list[StepShare[Place]]:
        """One optimiser step on these rows, by rank."""
        counts = StepCounts.of(table, rows)
        # What has no weight in any term would cost two passes and change nothing; only `official`
        # asks which micro-batch it would be in.
        official = self._config.objective.denominator == "official"
        used = official | (table.distill_weight != 0) | (table.policy_weight != 0)
        kept = np.asarray([row for row in rows if used[row]], np.int64)
        ranks = partition(
            table.longest()[kept],
            work[kept],
            num_ranks=self._num_ranks,
            token_budget=self._config.batch.micro_batch_tokens,
        )
        in_rows = [[kept[part].tolist() for part in rank] for rank in ranks]
        lengths = self._lengths(table, in_rows)
        return [
            StepShare(
                counts=counts,
                flops=float(work[kept].sum()),
                lengths=lengths[number],
                micro_batches=tuple(tuple(table.places[row] for row in part) for part in rank),
            )
            for number, rank in enumerate(in_rows)
        ]

    def _lengths(
        self, table: SampleTable, ranks: Sequence[Sequence[Sequence[int]]]
    ) -> list[dict[Role, int]]:
        """Padded tokens of a micro-batch by role, for each rank. Stages of a pipeline exchange
        tensors of one shape; ranks that share experts do so too.
        """
        parallel = self._config.parallel
        roles = [role for role in table.prompts if role != "null" or table.has_null]
        multiple = self._config.precision.sequence_multiple(parallel)
        found = [
            {
                role: padded_length(
                    table.tokens(role, multiple_of=parallel.sequence_cut), rank, multiple
                )
                for role in roles
            }
            for rank in ranks
        ]
        if parallel.expert * parallel.expert_tensor > 1:
            found = [{role: max(each[role] for each in found) for role in roles}] * len(found)
        return found

    def _check(self, table: SampleTable) -> None:
        budget = self._config.batch.micro_batch_tokens
        for row in np.flatnonzero(table.longest() > budget)[:1].tolist():
            raise ConfigError(
                f"{table.name(row)}: {table.longest()[row]} tokens do not fit "
                f"batch.micro_batch_tokens={budget}; raise it or shorten prompts and responses"
            )
