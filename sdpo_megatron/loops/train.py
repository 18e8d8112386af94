"""The training loop: sample, judge, score by the self-teacher, step, publish the weights; again.

It reads like the picture in docs/a-step.md, one call per arrow. Every rank runs it; rank 0 also has
a `Coordinator`, which owns the engines, the verifiers, the plan of each step and what a person
sees. The other ranks know nothing of attempts but those of their own share.
"""

from __future__ import annotations

from contextlib import ExitStack

from sdpo_megatron.actor.agree import any_rank, from_rank_0
from sdpo_megatron.actor.runtime import start_runtime
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.loops.plan_board import PlanBoard
from sdpo_megatron.loops.stop import StopRequest
from sdpo_megatron.observability.run_folder import RunFolder


def train(config: TrainConfig, folder: RunFolder, stop: StopRequest) -> bool:
    """Train until `run.steps` or `run.epochs`, or until a rank is asked to stop: then checkpoint
    and return.

    Returns whether all steps are done.

    Raises:
        SdpoError: Something that a person can act on; the launcher ends the other ranks.
    """
    runtime = start_runtime(config.run.device, timeout_s=config.run.collective_timeout_s)
    board = PlanBoard(runtime.init_process_group())
    import torch.distributed as dist

    from sdpo_megatron.loops.coordinator import Coordinator
    from sdpo_megatron.loops.own_share import read_share
    from sdpo_megatron.loops.trainer import Trainer

    with ExitStack() as stack:
        coordinator = None
        if dist.get_rank() == 0:
            stack.enter_context(board.relaying(stop))
            coordinator = stack.enter_context(Coordinator(config, folder, runtime, stop))
        trainer = Trainer(config, folder, runtime, coordinator)
        if coordinator:
            coordinator.open(trainer.state)
        steps = from_rank_0(coordinator.steps if coordinator else None)
        stopping = any_rank(stop.asked)
        if not stopping:
            trainer.publish(coordinator)
            if coordinator and trainer.state.step == 0:
                coordinator.validate(trainer.state)
        while not stopping and trainer.state.step < steps:
            step = trainer.state.step + 1
            if coordinator:
                board.announce(step, coordinator.next_plan(trainer.state))
            plan = board.wait(step, stop)
            if plan is None:  # stopped while sampling: the step is abandoned
                any_rank(True)  # rank 0 keeps the board: it stays until all have read this
                break
            metrics = trainer.step(read_share(folder.rollouts / plan, folder.groups))
            metrics |= trainer.publish(coordinator)
            if coordinator:
                coordinator.validate(trainer.state)
                coordinator.report(trainer.state, metrics)
            trainer.checkpoint_if_due()
            stopping = any_rank(stop.asked)
        trainer.checkpoint_if_due(now=True)
        if coordinator:
            coordinator.finish(trainer.state)
        return trainer.state.step >= steps
