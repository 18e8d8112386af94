"""Where a recipe runs: nemo-run's local executor, or Slurm with the trainer and its engines as one
job.

`local` and `slurm` are factories for ``run.executor=``; an executor of one's own, from a
workspace.py, serves as well: what the trainer and the engines need is set on copies of it.
"""

# Annotations are read by nemo-run at run time: no `from __future__ import annotations` here.
import sys
from dataclasses import dataclass

import nemo_run as run

from recipes.scripts import engine_script, train_script
from recipes.slurm_places import setup_lines
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError

STOP_BEFORE_S = 300
"""A run is asked to stop, with a checkpoint, so many seconds before its time is over."""


@run.cli.factory
@run.autoconvert
def local() -> run.LocalExecutor:
    """This machine."""
    return run.LocalExecutor(packager=run.Packager())


@run.cli.factory
@run.autoconvert
def slurm() -> run.SlurmExecutor:
    """A Slurm cluster, from a machine of it. Its fields are set as ``run.executor.account=...``,
    the names those of `nemo_run.SlurmExecutor`: partition, time, container_image (pyxis),
    container_mounts, gpus_per_node, retries. Without an image jobs use the environment that this
    runs in, at the same path."""
    return run.SlurmExecutor(
        account="",
        time="24:00:00",
        exclusive=True,
        mem="0",
        retries=3,  # times that a job which ended early is put into the queue again; it resumes
        packager=run.Packager(),
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """A script, and the executor that runs it."""

    script: run.Script
    executor: run.Executor


def tasks_for(
    config: TrainConfig,
    executor: run.Executor,
    *,
    nodes: int = 1,
    engine_nodes: int = 0,
    python: str = "",
) -> list[Task]:
    """The tasks of a run: the trainer, then the engines where they have machines of their own.

    Args:
        config: Of the run; its paths must be those of the machines that run it.
        executor: Local or Slurm. It is not changed.
        nodes, engine_nodes: Machines of either.
        python: Interpreter there; "": this one, or `python` in a container.

    Raises:
        ConfigError: The executor cannot run it.
    """
    if isinstance(executor, run.SlurmExecutor):
        return _slurm_tasks(config, executor, nodes, engine_nodes, python)
    if not isinstance(executor, run.LocalExecutor):
        raise ConfigError(
            f"{type(executor).__name__} cannot run a recipe: use a LocalExecutor, a SlurmExecutor, "
            "or manifests=FOLDER for Kubernetes"
        )
    if nodes > 1 or engine_nodes:
        raise ConfigError(
            f"nodes={nodes}, engine_nodes={engine_nodes}: the local executor is one machine; use "
            "run.executor=slurm or manifests=FOLDER"
        )
    mine = executor.clone()
    mine.launcher = None  # the ranks are started by `sdpo train`
    script = run.Script(inline=train_script(config, python or sys.executable))
    return [Task(script=script, executor=mine)]


def _slurm_tasks(
    config: TrainConfig, executor: run.SlurmExecutor, nodes: int, engine_nodes: int, python: str
) -> list[Task]:
    if not executor.account:
        raise ConfigError("run.executor.account: must be given for Slurm")
    interpreter = python or ("python" if executor.container_image else sys.executable)
    here = -(-config.rollout.engine.num_engines // engine_nodes) if engine_nodes else 0
    trainer = _prepared(executor, nodes)
    trainer.setup_lines = "\n".join(
        lines for lines in (executor.setup_lines, setup_lines(here)) if lines
    )
    script = train_script(config, interpreter, on_slurm=True, engines_apart=here > 0)
    tasks = [Task(script=run.Script(inline=script), executor=trainer)]
    if here:
        trainer.heterogeneous = True
        engines = _prepared(executor, engine_nodes)
        script = engine_script(config, interpreter, here)
        tasks.append(Task(script=run.Script(inline=script), executor=engines))
    return tasks


def _prepared(executor: run.SlurmExecutor, nodes: int) -> run.SlurmExecutor:
    """A copy for one task a machine, which has all of it."""
    mine = executor.clone()
    mine.nodes, mine.ntasks_per_node = nodes, 1
    mine.launcher = None  # torchrun would wrap every task of the job, engines too
    # A task is bound to the cores that it asked for, which srun takes for one.
    mine.srun_args = [*(executor.srun_args or []), "--cpu-bind=none"]
    mine.signal = executor.signal or f"TERM@{STOP_BEFORE_S}"
    mine.wait_time_for_group_job = 0  # the trainer waits for its engines by itself
    mine.monitor_group_job_wait_time = 10
    return mine
