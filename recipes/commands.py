"""The recipes as commands: ``nemorun sdpo NAME ...``.

    nemorun sdpo quickstart --yes
    nemorun sdpo science model=qwen3-8b model_path=/models/Qwen3-8B task_path=/data/sciknoweval \\
        gpu=h100 nodes=2 engine_nodes=1 run.executor=slurm run.executor.account=me
    nemorun sdpo science ... manifests=my-run      # Kubernetes: kubectl apply -k my-run

The exit code says how it ended: 0, 2 for a user's mistake, 1 for anything else.
"""

# Annotations are read by nemo-run at run time: no `from __future__ import annotations` here.
import sys
from collections.abc import Callable
from pathlib import Path

import nemo_run as run

from recipes import experiments
from recipes.experiments import BaselineTask, Subset
from recipes.kubernetes import write_manifests
from recipes.launching import launch
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import SdpoError
from sdpo_megatron.planning.hardware import GpuName, Machines
from sdpo_megatron.planning.models import ModelName

NAMESPACE = "sdpo"
_NONE: list[str] = []  # never changed


def _go(
    ctx: run.cli.RunContext,
    make: Callable[[], TrainConfig],
    machines: Callable[[], Machines] | None,
    manifests: str,
) -> None:
    """Compose, then launch or render; ends the process with the exit code."""
    try:
        place = machines() if machines else None
        config = make()
        if manifests:
            write_manifests(config, Path(manifests), place)
            code = 0
        else:
            code = launch(
                config,
                ctx.executor or run.LocalExecutor(packager=run.Packager()),
                nodes=place.nodes if place else 1,
                engine_nodes=place.engine_nodes if place else 0,
                dryrun=ctx.dryrun,
                detach=ctx.detach,
            )
    except SdpoError as error:
        print("\n".join(f"sdpo: {line}" for line in str(error).splitlines()), file=sys.stderr)
        code = error.exit_code
    raise SystemExit(code)


@run.cli.entrypoint(namespace=NAMESPACE, type="experiment")
def quickstart(ctx: run.cli.RunContext, overrides: list[str] = _NONE, manifests: str = "") -> None:
    """SmolLM2-135M on four HumanEval problems, without a GPU."""
    _go(ctx, lambda: experiments.quickstart(overrides), None, manifests)


@run.cli.entrypoint(namespace=NAMESPACE, type="experiment")
def livecodebench(
    ctx: run.cli.RunContext,
    model_path: str,
    task_path: str,
    model: ModelName = "qwen3-8b",
    gpu: GpuName = "h100",
    nodes: int = 1,
    engine_nodes: int = 0,
    overrides: list[str] = _NONE,
    manifests: str = "",
) -> None:
    """SDPO with rich feedback on LiveCodeBench v6."""
    machines = _machines(gpu, nodes, engine_nodes)
    _go(
        ctx,
        lambda: experiments.livecodebench(
            model=model,
            model_path=model_path,
            task_path=task_path,
            machines=machines(),
            overrides=overrides,
        ),
        machines,
        manifests,
    )


@run.cli.entrypoint(namespace=NAMESPACE, type="experiment")
def science(
    ctx: run.cli.RunContext,
    model_path: str,
    task_path: str,
    subset: Subset = "chemistry",
    model: ModelName = "qwen3-8b",
    gpu: GpuName = "h100",
    nodes: int = 1,
    engine_nodes: int = 0,
    overrides: list[str] = _NONE,
    manifests: str = "",
) -> None:
    """SDPO without rich feedback on a subject of SciKnowEval."""
    machines = _machines(gpu, nodes, engine_nodes)
    _go(
        ctx,
        lambda: experiments.science(
            model=model,
            model_path=model_path,
            task_path=task_path,
            subset=subset,
            machines=machines(),
            overrides=overrides,
        ),
        machines,
        manifests,
    )


@run.cli.entrypoint(namespace=NAMESPACE, type="experiment")
def tool_use(
    ctx: run.cli.RunContext,
    model_path: str,
    task_path: str,
    model: ModelName = "qwen3-8b",
    gpu: GpuName = "h100",
    nodes: int = 1,
    engine_nodes: int = 0,
    overrides: list[str] = _NONE,
    manifests: str = "",
) -> None:
    """SDPO without rich feedback on ToolAlpaca."""
    machines = _machines(gpu, nodes, engine_nodes)
    _go(
        ctx,
        lambda: experiments.tool_use(
            model=model,
            model_path=model_path,
            task_path=task_path,
            machines=machines(),
            overrides=overrides,
        ),
        machines,
        manifests,
    )


@run.cli.entrypoint(namespace=NAMESPACE, type="experiment")
def grpo(
    ctx: run.cli.RunContext,
    model_path: str,
    task_path: str,
    task: BaselineTask = "science",
    on_policy: bool = False,
    model: ModelName = "qwen3-8b",
    gpu: GpuName = "h100",
    nodes: int = 1,
    engine_nodes: int = 0,
    overrides: list[str] = _NONE,
    manifests: str = "",
) -> None:
    """The GRPO baseline of a task."""
    machines = _machines(gpu, nodes, engine_nodes)
    _go(
        ctx,
        lambda: experiments.grpo(
            model=model,
            model_path=model_path,
            task_path=task_path,
            task=task,
            on_policy=on_policy,
            machines=machines(),
            overrides=overrides,
        ),
        machines,
        manifests,
    )


@run.cli.entrypoint(namespace=NAMESPACE, type="experiment")
def discovery(
    ctx: run.cli.RunContext,
    model_path: str,
    task_path: str,
    question: str,
    model: ModelName = "qwen3-8b",
    gpu: GpuName = "h100",
    nodes: int = 1,
    engine_nodes: int = 0,
    overrides: list[str] = _NONE,
    manifests: str = "",
) -> None:
    """Discovery: SDPO on one hard question, by its id."""
    machines = _machines(gpu, nodes, engine_nodes)
    _go(
        ctx,
        lambda: experiments.discovery(
            model=model,
            model_path=model_path,
            task_path=task_path,
            question=question,
            machines=machines(),
            overrides=overrides,
        ),
        machines,
        manifests,
    )


def _machines(gpu: str, nodes: int, engine_nodes: int) -> Callable[[], Machines]:
    return lambda: Machines.of(gpu, nodes, engine_nodes)
