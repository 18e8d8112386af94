"""From a configuration to a nemo-run experiment, and from its end to an exit code."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import nemo_run as run
from torchx.specs import AppState

from recipes.executors import Task, tasks_for
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.exit_codes import DONE, FAILED


def launch(
    config: TrainConfig,
    executor: run.Executor,
    *,
    nodes: int = 1,
    engine_nodes: int = 0,
    dryrun: bool = False,
    detach: bool = False,
    python: str = "",
) -> int:
    """Run it to its end, or with `detach` hand it over; the exit code.

    nemo-run itself ends with 0 whatever becomes of its tasks.

    Args:
        dryrun: Print what would run.
        python: Interpreter of the job; see `tasks_for`.
    """
    settled, name = with_absolute_paths(config), job_name(config.run.name)
    tasks = tasks_for(settled, executor, nodes=nodes, engine_nodes=engine_nodes, python=python)
    with run.Experiment(name, skip_status_at_exit=True, enable_goodbye_message=False) as experiment:
        add(experiment, name, tasks)
        if dryrun:
            experiment.dryrun()
            return DONE
        print(f"run folder: {settled.run.folder}", flush=True)
        experiment.run(detach=detach, tail_logs=not detach)
    if getattr(experiment, "detach", False):
        return DONE if all(job.launched for job in experiment.jobs) else FAILED
    states = [state for job in experiment.jobs for state in _states(job)]
    return DONE if states and all(state == AppState.SUCCEEDED for state in states) else FAILED


def add(experiment: run.Experiment, name: str, tasks: list[Task]) -> None:
    """The tasks as one job of the experiment."""
    scripts = [task.script for task in tasks]
    executors = [task.executor for task in tasks]
    if len(tasks) == 1:
        experiment.add(scripts[0], executor=executors[0], name=name)
    else:
        experiment.add(scripts, executor=executors, name=name)


def job_name(name: str) -> str:
    """`name` with dashes for what a shell might read: nemo-run names folders by it, and hands their
    paths to srun unquoted."""
    return re.sub(r"[^0-9A-Za-z-]+", "-", name).strip("-") or "run"


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Jobs start in other folders; and one that is queued again must find its run folder."""
    stamp = f"runs/{config.run.name}-{datetime.now():%Y%m%d-%H%M%S}"
    task = config.task
    if task.path:
        task = replace(task, path=os.path.abspath(task.path))
    return replace(
        config,
        run=replace(config.run, folder=os.path.abspath(config.run.folder or stamp)),
        model=replace(config.model, path=str(Path(config.model.path).absolute())),
        task=task,
    )


def _states(job: object) -> list[AppState]:
    states = getattr(job, "states", None)
    return states if states is not None else [job.state]  # type: ignore[attr-defined]
