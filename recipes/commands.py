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
from recipes.executors import local
from recipes.experiments import Subset
from recipes.hardware import GpuName, Machines
from recipes.kubernetes import write_manifests
from recipes.launching import launch
from recipes.models import ModelName
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import SdpoError

NAMESPACE = "sdpo"


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
                ctx.executor or local(),
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
def quickstart(ctx: run.cli.RunContext, overrides: list[str] = [], manifests: str = "") -> None:  # noqa: B006
    """SmolLM2-135M on four HumanEval problems, without a GPU."""
    _go(ctx, lambda: experiments.quickstart(overrides), None, manifests)
