"""The training loop: sample, judge, score by the self-teacher, step, publish the weights; again.

It reads like the picture in docs/a-step.md, one call per arrow. Every rank runs it; rank 0 also has
a `Coordinator`, which owns the engines, the verifiers, the plan of each step and what a person
sees. The other ranks know nothing of attempts but those of their own share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdpo_megatron.actor.agree import any_rank, from_rank_0
from sdpo_megatron.actor.runtime import start_runtime
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.loops.plans.board import PlanBoard
from sdpo_megatron.loops.stop import StopRequest
from sdpo_megatron.observability.run_folder import RunFolder

if TYPE_CHECKING:
    from sdpo_megatron.actor.batches.share import BatchShare
    from sdpo_megatron.loops.coordinator import Coordinator
    from sdpo_megatron.loops.trainer import Trainer


@dataclass(frozen=True)
class OpenRun:
    """A run with its engines up and its model loaded, on this rank.

    Attributes:
        coordinator: Of rank 0; None on the others.
        steps: Rollout batches of the run.
    """

    config: TrainConfig
    folder: RunFolder
    stop: StopRequest
    board: PlanBoard
    coordinator: Coordinator | None
    trainer: Trainer
    steps: int

    def next_plan(self, *, learn: bool = True) -> str | None:
        """The plan of the next rollout batch, once it is sampled; None when the run was asked to
        stop. A batch that nothing is to be learnt from has a name but no plan.
        """
        state = self.trainer.state
        if self.coordinator:
            make = self.coordinator.next_plan if learn else self.coordinator.next_batch
            name = make(state)
            if learn and name is not None:
                self.coordinator.release_engines()  # before a rank works on a GPU that it shares
            self.board.announce(state.step + 1, name)
        plan = self.board.wait(state.step + 1, self.stop)
        if plan is None:
            any_rank(True)  # rank 0 keeps the board: it stays until all have read this
        return plan

    def share(self, plan: str) -> BatchShare:
        """This rank's share of a planned rollout batch."""
        from sdpo_megatron.loops.plans.own_share import read_share

        return read_share(self.folder.rollouts / plan, self.folder.groups)

    def end_step(self, metrics: Mapping[str, float]) -> bool:
        """The step is reported, then saved where that is due; whether the run was asked to stop."""
        trainer, coordinator = self.trainer, self.coordinator
        if coordinator:
            coordinator.report(trainer.state, metrics, trainer.actor.scored)
        trainer.checkpoint_if_due()
        if coordinator:
            coordinator.saved()
        return any_rank(self.stop.asked)

    def finish(self) -> None:
        """Everything is on the disk, and a person is told where."""
        self.trainer.checkpoint_if_due(now=True)
        self.trainer.close()
        if self.coordinator:
            self.coordinator.finish(self.trainer.state)


@contextmanager
def opened(config: TrainConfig, folder: RunFolder, stop: StopRequest) -> Iterator[OpenRun]:
    """Everything that a loop needs, for the length of a ``with`` block."""
    runtime = start_runtime(config.run.device, timeout_s=config.run.collective_timeout_s)
    board = PlanBoard(runtime.init_process_group())
    import torch.distributed as dist

    from sdpo_megatron.loops.coordinator import Coordinator
    from sdpo_megatron.loops.trainer import Trainer

    with ExitStack() as stack:
        coordinator = None
        if dist.get_rank() == 0:
            stack.enter_context(board.relaying(stop))
            coordinator = stack.enter_context(Coordinator(config, folder, runtime, stop))
        trainer = Trainer(config, folder, runtime, coordinator)
        if coordinator:
            coordinator.open(trainer.state, trainer.ledger_place)
        steps = from_rank_0(coordinator.steps if coordinator else None)
        yield OpenRun(config, folder, stop, board, coordinator, trainer, steps)


def train(config: TrainConfig, folder: RunFolder, stop: StopRequest) -> bool:
    """Train until `run.steps` or `run.epochs`, or until a rank is asked to stop: then checkpoint
    and return.

    Returns whether all steps are done.

    Raises:
        SdpoError: Something that a person can act on; the launcher ends the other ranks.
    """
    with opened(config, folder, stop) as run:
        trainer, coordinator = run.trainer, run.coordinator
        stopping = any_rank(stop.asked)
        if not stopping:
            trainer.publish(coordinator)
            if coordinator and trainer.state.step == 0:
                coordinator.validate(trainer.state)
        while not stopping and trainer.state.step < run.steps:
            plan = run.next_plan()
            if plan is None:  # stopped while sampling: the step is abandoned
                break
            metrics = trainer.step(run.share(plan))
            metrics |= trainer.publish(coordinator)
            if coordinator:
                coordinator.validate(trainer.state)
            stopping = run.end_step(metrics)
        run.finish()
        return trainer.state.step >= run.steps
