"""The trainer's side of the loop, on every rank: actor, checkpoints and publishing of weights."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo_megatron.actor.actor import Actor
from sdpo_megatron.actor.agree import from_rank_0
from sdpo_megatron.actor.batches.share import BatchShare
from sdpo_megatron.actor.drift import DriftGate, Part, leave_fp8
from sdpo_megatron.actor.runtime import Runtime
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import SdpoError
from sdpo_megatron.loops.publish import Publisher
from sdpo_megatron.loops.state import TrainState, diagnostics_due
from sdpo_megatron.nouns import PolicyVersion
from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.phases import PhaseClock
from sdpo_megatron.observability.run_folder import RunFolder
from sdpo_megatron.rollout.ledger.lines import Place
from sdpo_megatron.weights.spec import ModelSpec

if TYPE_CHECKING:
    from sdpo_megatron.loops.coordinator import Coordinator


_OF_NO_TRAINING = (
    "time/teacher_s", "time/student_s", "time/optimizer_s", "train/tokens", "train/flops",
)  # fmt: skip


class Trainer:
    """Construction and every method are collective over the trainer ranks."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        runtime: Runtime,
        coordinator: Coordinator | None = None,
    ) -> None:
        """Build the actor; go on from the run folder's newest whole checkpoint if there is one."""
        self._board = coordinator.board if coordinator else Board()  # rank 0's is the one exported
        self._clock = coordinator.clock if coordinator else PhaseClock(self._board)
        self.config, self.folder, self._coordinator = config, folder, coordinator
        self.actor = Actor(
            config,
            ModelSpec.from_folder(config.model.path),
            config.model.path,
            runtime,
            temperature=config.rollout.sampling.temperature,
            seed=config.run.seed,
            report_attempts=config.run.report_attempts,
        )
        self.actor.on_phase = self._clock.enter
        # What every search of `sdpo discover` starts from.
        self._first = self.actor.weights.snapshot() if config.discovery else None
        saved = self.actor.load_newest(folder.checkpoints)
        self.state = TrainState.from_plain(saved["state"]) if saved else TrainState()
        self.actor.rollout_batches = self.state.step - self.state.search_began
        self.ledger_place = Place(**saved["ledger"]) if saved else Place()
        self._engine = config.rollout.engine
        self.actor.gate = fp8_gate(config, self.state)
        self._saved_step = self.state.step
        self._published = -1
        self._publisher: Publisher | None = None
        self._checkpoint_s = 0.0

    def step(self, share: BatchShare) -> dict[str, float]:
        """Train on a rollout batch, of which this is the rank's share; returns its metrics."""
        diagnosed = self._diagnose(share)
        metrics = self.actor.step(share) | diagnosed
        updated = self.actor.optimizer_steps > self.state.optimizer_steps
        self.state = replace(
            self.state,
            step=self.state.step + 1,
            optimizer_steps=self.actor.optimizer_steps,
            version=PolicyVersion(self.state.version.number + updated),
            skipped_steps=self.state.skipped_steps + (not updated),
        )
        metrics["time/checkpoint_s"], self._checkpoint_s = self._checkpoint_s, 0.0
        return metrics

    def pass_over(self) -> dict[str, float]:
        """A rollout batch that nothing is learnt from; returns its metrics."""
        self.state = replace(self.state, step=self.state.step + 1)
        self.actor.rollout_batches += 1
        self.actor.scored = []
        metrics = dict.fromkeys(_OF_NO_TRAINING, 0.0) | {"train/skipped_steps": 1.0}
        metrics["time/checkpoint_s"], self._checkpoint_s = self._checkpoint_s, 0.0
        return metrics

    def begin_next_search(self) -> None:
        """The model, its optimiser and its teacher are as they were before the first search."""
        assert self._first is not None
        changed = self.actor.optimizer_steps > 0
        if changed:
            self.actor.begin_anew(self._first)
        self.actor.rollout_batches = 0
        self.state = replace(
            self.state,
            optimizer_steps=0,
            version=PolicyVersion(self.state.version.number + changed),
            search=self.state.search + 1,
            search_began=self.state.step,
        )

    def _diagnose(self, share: BatchShare) -> dict[str, float]:
        if not diagnostics_due(self.config, self.state):
            return {}
        return {"teacher/null_kl": self.actor.null_teacher_kl(share)}

    def publish(self, coordinator: Coordinator | None) -> dict[str, float]:
        """Bring the live weights to the engines, if they do not have them yet.

        Returns the seconds it took.
        """
        start = time.monotonic()
        fallen = self.actor.gate.take_due()
        for part in fallen:
            self._fall_back(part, coordinator)
        number = self.state.version.number
        if self._engine.release_memory:  # the engines have nothing, new or not
            self._published = -1
            self.actor.runtime.release_cached()
        if number != self._published:
            with self._clock.phase("publish"):
                self._publish(number, coordinator)
            if coordinator:
                coordinator.published(self.state)
        return {
            "time/publish_s": time.monotonic() - start,
            "drift/fallbacks": float(len(fallen)),
        }

    def _fall_back(self, part: Part, coordinator: Coordinator | None) -> None:
        """`part` computes in bf16 from now on, also after a resume."""
        if part not in self.state.fallen_back:
            self.state = replace(self.state, fallen_back=(*self.state.fallen_back, part))
        if part == "trainer":
            leave_fp8(self.actor.chunks)
            return
        self._engine = replace(self._engine, precision="same")
        self._published = -1
        self.close()
        self._publisher = None
        if coordinator:
            coordinator.restart_engines(self._engine)

    def _publish(self, number: int, coordinator: Coordinator | None) -> None:
        self.folder.may_write()
        if self._publisher is None:
            self._publisher = Publisher(
                self.actor,
                Path(self.config.model.path),
                self.folder.weights,
                self._engine,
                from_rank_0(coordinator.transport if coordinator else ""),
            )
        version = self._publisher.publish(number, coordinator)
        self.state = replace(self.state, version=version)
        self._published = number

    def close(self) -> None:
        """Once what is written behind the steps is whole."""
        if self._publisher is not None:
            self._publisher.close()

    def checkpoint_if_due(self, *, now: bool = False) -> None:
        """Save when `run.checkpoint_every` says so (or `now`) and something is new; hear how the
        one that is being written went. `now` waits until it is on the disk.

        After the step was reported: a kill in between repeats the step, and loses no report.

        Raises:
            CheckpointError: This one or the one before could not be written.
        """
        start = time.monotonic()
        every = self.config.run.checkpoint_every
        due = now or (every and self.state.step % every == 0)
        new = due and self.state.step != self._saved_step
        with self._clock.phase("checkpoint"):
            self._finish_saving(wait=bool(now or new))
            if new:
                place = from_rank_0(self._coordinator.place if self._coordinator else None)
                self.actor.begin_save(
                    self.folder.checkpoints,
                    self.state.step,
                    {"state": self.state.to_plain(), "ledger": asdict(place or Place())},
                    keep=self.config.run.keep_checkpoints,
                    may_commit=self.folder.may_write,
                    background=self.config.run.checkpoint_in_background and not now,
                )
                self._saved_step = self.state.step
                self._finish_saving(wait=now or not self.config.run.checkpoint_in_background)
                self._checkpoint_s = time.monotonic() - start

    def _finish_saving(self, *, wait: bool) -> None:
        try:
            saved = self.actor.finish_save(wait=wait)
        except SdpoError:
            self._board.add("sdpo_checkpoint_failures_total")
            raise
        if saved is not None:
            self._board.set("sdpo_checkpoint_last_success_timestamp_seconds", time.time())
            self._board.set("sdpo_checkpoint_step", saved.step)
            self._board.set("sdpo_checkpoint_bytes", saved.num_bytes)
            self._board.set("sdpo_checkpoint_write_seconds", saved.seconds)


def fp8_gate(config: TrainConfig, state: TrainState) -> DriftGate:
    """The gate of a run that goes on from `state`; what has fallen back before is due again."""
    in_fp8: list[Part] = ["engine"] if config.rollout.engine.precision == "fp8" else []
    in_fp8 += ["trainer"] if config.precision.fp8 else []
    gate = DriftGate(config.drift, [part for part in in_fp8 if part not in state.fallen_back])
    gate.due = [part for part in in_fp8 if part in state.fallen_back]
    return gate
