"""The experiments as functions: from a model, data and machines to the configuration of a run.

Every value comes from sdpo_megatron/conf; what a function adds is the layout for the machines, and
`overrides`, in the words of `sdpo train`, have the last word. What does not fit is refused with its
memory sheet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from recipes.engines import engines_for
from sdpo_megatron import config as configs
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.config.composing import yaml_groups
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.loops.launching.placement import assign
from sdpo_megatron.planning.hardware import Machines
from sdpo_megatron.planning.layouts import WAYS_OUT, choose
from sdpo_megatron.planning.memory import memory_sheet
from sdpo_megatron.planning.models import ModelName, shape_of
from sdpo_megatron.planning.sheet import Sheet

Subset = Literal["chemistry", "biology", "material", "physics"]
BaselineTask = Literal["science", "tool_use", "livecodebench"]
_LAYOUT_KEYS = ("parallel", "run.data_parallel")


def quickstart(overrides: Sequence[str] = ()) -> TrainConfig:
    """SmolLM2-135M on four HumanEval problems, without a GPU.

    Raises:
        ConfigError: As `config.load`; so do all functions here.
    """
    return configs.load(["experiment=quickstart", *overrides])


def livecodebench(
    *,
    model: ModelName = "qwen3-8b",
    model_path: str,
    task_path: str,
    machines: Machines,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """SDPO with rich feedback on LiveCodeBench v6."""
    return planned("livecodebench", model, model_path, task_path, machines, overrides)


def science(
    *,
    model: ModelName = "qwen3-8b",
    model_path: str,
    task_path: str,
    subset: Subset = "chemistry",
    machines: Machines,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """SDPO without rich feedback on a subject of SciKnowEval."""
    more = [f"task.subset={subset}", *overrides]
    return planned("science", model, model_path, task_path, machines, more)


def tool_use(
    *,
    model: ModelName = "qwen3-8b",
    model_path: str,
    task_path: str,
    machines: Machines,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """SDPO without rich feedback on ToolAlpaca."""
    return planned("tool_use", model, model_path, task_path, machines, overrides)


def grpo(
    *,
    model: ModelName = "qwen3-8b",
    model_path: str,
    task_path: str,
    task: BaselineTask = "science",
    on_policy: bool = False,
    machines: Machines,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """The GRPO baseline of a task, with several optimiser steps a batch or, on-policy, one."""
    experiment = "grpo_on_policy" if on_policy else "grpo"
    of_its_own = f"{task}_{experiment}"
    if of_its_own in yaml_groups()["experiment"]:
        return planned(of_its_own, model, model_path, task_path, machines, overrides)
    more = [f"task={task}", *overrides]
    return planned(experiment, model, model_path, task_path, machines, more)


def discovery(
    *,
    model: ModelName = "qwen3-8b",
    model_path: str,
    task_path: str,
    question: str,
    machines: Machines,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """Discovery: SDPO on one hard question, `question` being its id, until it is solved."""
    more = [f"task.ids=[{quoted(question)}]", *overrides]
    return planned("test_time", model, model_path, task_path, machines, more)


def planned(
    experiment: str,
    model: ModelName,
    model_path: str,
    task_path: str,
    machines: Machines,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """An experiment of conf/experiment, laid out for `machines`.

    Where `overrides` name the layout (``parallel...``, ``run.data_parallel``), it is theirs.

    Raises:
        ConfigError: As `config.load`; or no layout fits, or that of `overrides` does not.
    """
    spec = shape_of(model, model_path)
    title = f"{model} on {machines.gpu.title}: "
    base = [
        f"experiment={experiment}",
        f"model.path={quoted(model_path)}",
        f"task.path={quoted(task_path)}",
    ]
    asked = configs.load([*base, *overrides])
    own_tp = any(_key(override) == "rollout.engine.tp" for override in overrides)
    sizes = (asked.rollout.engine.tp,) if own_tp else (1, 2, 4, 8)
    engines = engines_for(asked, spec, machines, sizes)
    ours = engines.overrides()
    if any(_key(override).startswith(_LAYOUT_KEYS) for override in overrides):
        asked.parallel.check_model(spec)
        asked.parallel.check_world(machines.ranks)
        ours.append(f"run.data_parallel={machines.ranks // asked.parallel.model_ranks}")
    else:
        ours += choose(engines.within(asked, overrides), spec, machines, title).overrides()
    config = configs.load([*base, *ours, *overrides])
    _check_world(config, machines)
    assign(config, machines.gpu.per_node, machines.gpu.per_node, engines=machines.shared)
    sheet = memory_sheet(config, spec, machines, title=title)
    if not sheet.fits:
        raise ConfigError(f"this layout does not fit. {WAYS_OUT}\n{sheet}")
    return config


def sheet_of(config: TrainConfig, model: ModelName, machines: Machines) -> Sheet:
    """The memory sheet of a planned configuration."""
    spec = shape_of(model, config.model.path)
    return memory_sheet(config, spec, machines, title=f"{model} on {machines.gpu.title}: ")


def _check_world(config: TrainConfig, machines: Machines) -> None:
    world = config.parallel.model_ranks * config.run.data_parallel
    if world != machines.ranks:
        raise ConfigError(
            f"parallel.* x run.data_parallel={config.run.data_parallel} are {world} ranks, and the "
            f"{machines.nodes} x {machines.gpu.per_node} GPUs take {machines.ranks}: change "
            "run.data_parallel, or nodes"
        )


def quoted(text: str) -> str:
    """`text` as a value of an override, whatever characters it has (hydra's grammar: backslashes
    count before a quote alone; and OmegaConf's, which would look up ``${...}``)."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return "'" + escaped.replace("${", "\\${") + "'"


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
