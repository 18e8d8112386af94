"""Seconds of each phase of a step, each with its sum in words.

    rollout     prefill + decode; the tail is decode with less than a tenth of the attempts left
    judge       beside the rollout; what of it comes after
    teacher     forward-only passes, and a weight set swapped in and out
    student     forward and backward: three forward passes, four with full recomputation
    optimizer   gradients reduced as far as the backward pass does not cover it, AdamW, EMA
    publish     the new weights to every engine
    checkpoint  what the step waits for; written beside the next

A pipeline of p stages and m micro-batches works (m + p - 1) / m as long as its stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.planning.cluster import Cluster
from sdpo_megatron.planning.memory import weight_sets
from sdpo_megatron.planning.rank_share import num_parameters
from sdpo_megatron.planning.simulation.engine import drain
from sdpo_megatron.planning.speeds import Speeds
from sdpo_megatron.planning.workload import Workload
from sdpo_megatron.weights.flops import forward_flops
from sdpo_megatron.weights.spec import ModelSpec

TRANSPORTS = ("disk", "distributed", "tensor")
_TAIL = 0.1
_STATE_BYTES = 12  # a parameter: master and both moments; a weight set adds 4
_ADAM_TRAFFIC = (
    28  # bytes a parameter: gradient, master, moments read; master, moments, weight written
)
_SET_TRAFFIC = 12  # of a moving average: read it and the master, write it


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase.

    Attributes:
        name: As in the metrics' time/NAME_s.
        seconds: Of the step; what is hidden behind other phases is not in it.
        sum: How the number comes about.
    """

    name: str
    seconds: float
    sum: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A run as far as its seconds depend on it."""

    config: TrainConfig
    spec: ModelSpec
    cluster: Cluster
    speeds: Speeds
    work: Workload
    transport: str = "disk"

    # --- rollout ----------------------------------------------------------------------------------

    def rollout(self) -> Phase:
        """Of a batch that starts on idle engines and is waited for (max_staleness 0)."""
        ends = self._ends()
        tail = ends[-1] - ends[max(0, math.floor(len(ends) * (1 - _TAIL)) - 1)]
        judged = max(ends[-1], self.judge_work() / self.cluster.judges) + self.speeds.judge_s
        python = self.python_s()
        seconds = max(judged, python)
        return Phase(
            name="rollout",
            seconds=seconds,
            sum=f"prefill {self.prefill_s():.2f} s, decode {ends[-1] - self.prefill_s():.1f} s of "
            f"{self._per_engine()} attempts an engine in {self.cluster.slots} slots, "
            f"the last tenth {tail:.1f} s; then the last verdict",
        )

    def prefill_s(self) -> float:
        """Of an engine's share. Siblings arrive together, before the first one's prompt is in the
        prefix cache, so each attempt's prompt is read.
        """
        return self._per_engine() * self.prompt_s()

    def prompt_s(self) -> float:
        return forward_flops(self.spec, round(self.work.prompt), 1) / self.speeds.prefill_flops

    def judge_work(self) -> float:
        """Core seconds of all verdicts."""
        return self.work.attempts * self.speeds.judge_s

    def python_s(self) -> float:
        """Of the busiest rollout worker."""
        speeds = self.speeds
        us = speeds.sample_us + speeds.teach_us + speeds.store_us
        return us * 1e-6 * self.work.response_tokens / self.cluster.cells

    def _per_engine(self) -> int:
        """Attempts at one question go to one engine."""
        return math.ceil(self.work.questions / self.cluster.engines) * self.work.num_attempts

    def _ends(self) -> list[float]:
        lengths = self.work.lengths.evenly(self._per_engine())
        lengths[-1] = max(lengths[-1], self.work.lengths.longest(self.work.attempts))
        return drain(self.speeds, self.cluster.slots, lengths, self.work.prompt, self.prefill_s())

    # --- trainer ----------------------------------------------------------------------------------

    def micro_batches(self) -> int:
        """Of a rank, in all optimiser steps of the batch together."""
        budget = self.config.batch.micro_batch_tokens
        return max(
            self._optimizer_steps(),
            math.ceil(self.work.packed_tokens() / self.cluster.data_parallel / budget),
        )

    def bubble(self) -> float:
        each = self.micro_batches() / self._optimizer_steps()
        return (each + self.cluster.parallel.pipeline - 1) / each

    def teacher(self) -> Phase:
        flops = self.work.scoring_flops(self.spec)
        passes = flops * self.bubble() / self.cluster.ranks / self.speeds.score_flops
        swaps = 2 * len(weight_sets(self.config)) * self._optimizer_steps() * self._gather_s()
        return Phase(
            name="teacher",
            seconds=(passes + swaps) if flops else 0.0,
            sum=f"{flops:.3g} operations x {self.bubble():.2f} for the pipeline on "
            f"{self.cluster.ranks} ranks; weight sets in and out {swaps:.2f} s",
        )

    def student(self) -> Phase:
        passes = 4 if self.config.parallel.recompute == "full" else 3
        flops = passes * self.work.student_flops(self.spec)
        seconds = flops * self.bubble() / self.cluster.ranks / self.speeds.train_flops
        return Phase(
            name="student",
            seconds=seconds,
            sum=f"{flops:.3g} operations ({passes} forward passes) x {self.bubble():.2f} on "
            f"{self.cluster.ranks} ranks, {self.micro_batches()} micro-batches each",
        )

    def optimizer(self) -> Phase:
        """Of all optimiser steps of the batch."""
        steps, held = self._optimizer_steps(), self._held()
        owned = held / self.cluster.data_parallel
        reduce = 4 * held * self._ring() / self._between_s()
        if self.config.parallel.overlap_grad_reduce:
            last = self.student().seconds / max(1, self.micro_batches()) * 2 / 3
            reduce = max(0.0, reduce - last)
        sets = len(weight_sets(self.config)) if self.config.teacher.kind == "ema" else 0
        update = owned * (_ADAM_TRAFFIC + _SET_TRAFFIC * sets) / self.speeds.memory_bytes_s
        gather = self._gather_s()
        return Phase(
            name="optimizer",
            seconds=steps * (reduce + update + gather),
            sum=f"{steps} x (gradients {reduce:.3f} s uncovered, AdamW and EMA over "
            f"{owned / 1e6:,.0f} M parameters {update:.3f} s, weights gathered {gather:.3f} s)",
        )

    def _optimizer_steps(self) -> int:
        batch = self.config.batch
        return batch.questions // (batch.questions_per_step or batch.questions)

    def _held(self) -> float:
        """Parameters on one rank, on average over stages."""
        parallel = self.cluster.parallel
        return num_parameters(self.spec) / (parallel.tensor * parallel.pipeline)

    def _ring(self) -> float:
        copies = self.cluster.data_parallel
        return (copies - 1) / copies

    def _between_s(self) -> float:
        """Bytes/s between data-parallel ranks: the machine's links where all are in one."""
        within = self.cluster.nodes == 1
        return self.speeds.link_bytes_s if within else self.speeds.network_bytes_s

    def _gather_s(self) -> float:
        """A weight set all-gathered over data-parallel ranks; where there is one copy, a copy."""
        if self.cluster.data_parallel == 1:
            return 2 * 2 * self._held() / self.speeds.memory_bytes_s
        return 2 * self._held() * self._ring() / self._between_s()

    # --- weights and checkpoints ------------------------------------------------------------------

    def publish(self) -> Phase:
        size = 2.0 * num_parameters(self.spec)
        speeds, cluster = self.speeds, self.cluster
        if self.transport == "disk":
            write = size / speeds.disk_bytes_s
            readers = min(cluster.engine_nodes * speeds.disk_bytes_s, speeds.shared_bytes_s)
            read = cluster.engines * size / readers
            # A machine reads a file once; its other engines find it in memory.
            read = min(read, cluster.engine_nodes * size / readers)
            seconds, how = write + read, f"one writer {write:.2f} s, engines read {read:.2f} s"
        elif self.transport == "distributed":
            wire = speeds.network_bytes_s if cluster.nodes > 1 else speeds.link_bytes_s
            seconds = size / cluster.parallel.pipeline / wire
            how = (
                f"each of {cluster.parallel.pipeline} stages sends its own at {wire / 1e9:.3g} GB/s"
            )
        else:
            seconds = size / cluster.engine_tp / speeds.host_bytes_s
            how = "from memory to memory of one machine"
        return Phase(
            name="publish",
            seconds=seconds + speeds.swap_s,
            sum=f"{size / 1e9:.2f} GB: {how}; pause and checks {speeds.swap_s:.2f} s",
        )

    def state_bytes(self) -> float:
        """Of a checkpoint."""
        return num_parameters(self.spec) * (_STATE_BYTES + 4 * len(weight_sets(self.config)))

    def checkpoint_write_s(self) -> float:
        """Until it is on the disk; each machine writes what its ranks own."""
        return self.state_bytes() / self._disks()

    def checkpoint_load_s(self) -> float:
        return self.state_bytes() / self._disks()

    def checkpoint(self) -> Phase:
        """The average over steps of what a step waits for."""
        every, run = self.config.run.checkpoint_every, self.config.run
        share = self.state_bytes() / self.cluster.ranks
        waits = share / self.speeds.host_bytes_s
        how = f"{share / 1e9:.2f} GB a rank copied to its host"
        if not run.checkpoint_in_background:
            waits, how = self.checkpoint_write_s(), f"{self.state_bytes() / 1e9:.1f} GB written"
        return Phase(
            name="checkpoint",
            seconds=waits / every if every else 0.0,
            sum=f"{how}, every {every} steps; on the disk after {self.checkpoint_write_s():.1f} s",
        )

    def _disks(self) -> float:
        return min(self.cluster.nodes * self.speeds.disk_bytes_s, self.speeds.shared_bytes_s)

    # --- the step ---------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        """Of a synchronous step, in order."""
        return [
            self.rollout(),
            self.teacher(),
            self.student(),
            self.optimizer(),
            self.publish(),
            self.checkpoint(),
        ]

    def train_s(self) -> float:
        """Of a step, without rollout and publish: what asynchrony puts beside the rollouts."""
        return sum(
            phase.seconds
            for phase in (self.teacher(), self.student(), self.optimizer(), self.checkpoint())
        )
