"""What is settled before any process starts: the model is there and fits the layout, the task
loads, the run folder is this run's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sdpo_megatron import config as configs
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.config.budgets import check_model_context
from sdpo_megatron.errors import ConfigError, ModelFileError
from sdpo_megatron.fields.reading import dotted, to_plain
from sdpo_megatron.loops.launching.lease import Lease
from sdpo_megatron.observability.run_folder import RunFolder

MAY_CHANGE = (
    "run.",
    "parallel.",
    "rollout.engine.",
    "rollout.workers.",
    "judge.",
    "drift.",
    "batch.micro_batch_tokens",
    "batch.logits_mib",
    "rollout.sampling.concurrency",
    "validation.",
)
"""Settings that a resumed run may change: where and how fast it runs, not what it computes."""


def prepare(config: TrainConfig, folder: Path) -> None:
    """Check everything that can be checked without a process, and make the model folder where that
    is asked for.

    Raises:
        ConfigError: The layout does not fit the model, or `folder` holds a run with other settings.
        ModelFileError: The model folder is missing or not usable.
        TaskFileError: The task's file is malformed.
    """
    from sdpo_megatron.rollout.validation import validation_task
    from sdpo_megatron.tasks import load_task
    from sdpo_megatron.weights import fp8
    from sdpo_megatron.weights.files import index_folder
    from sdpo_megatron.weights.load import check_tensors
    from sdpo_megatron.weights.spec import ModelSpec, read_config
    from serving.model_fields import engine_problems

    check_same_run(config, folder)
    prepare_model(config)
    model = Path(config.model.path)
    spec = ModelSpec.from_folder(model)
    if problems := engine_problems(read_config(model)):
        raise ModelFileError(f"{model}/config.json: " + "; ".join(problems))
    config.parallel.check_model(spec)
    check_model_context(config, spec.max_position)
    config.precision.check_model(spec, config.parallel)
    if config.rollout.engine.precision == "fp8":
        fp8.check_layout(spec, config.rollout.engine.tp)
    check_tensors(spec, index_folder(model), model)
    load_task(config.task)
    if config.validation.every:
        load_task(validation_task(config.validation, config.task))


def prepare_model(config: TrainConfig) -> None:
    """Make the model folder where that is asked for.

    Raises:
        ModelFileError: Another one was meant to be there.
    """
    model = Path(config.model.path)
    if config.model.prepare == "smollm2" and not (model / "config.json").is_file():
        _prepare_smollm2(model)


@contextmanager
def make_folder(
    config: TrainConfig, path: Path, progress: Callable[[str], None] = print
) -> Iterator[tuple[RunFolder, Lease]]:
    """The run folder at `path` with `config` in it, and the right to write it for a ``with`` block.

    Raises:
        RunFolderInUse: Another trainer, which lives, writes it.
        ConfigError: It holds a run with other settings.
    """
    with Lease.acquire(path, wait_s=config.run.lease_wait_s, progress=progress) as lease:
        check_same_run(config, path)  # once more: somebody may have begun it meanwhile
        folder = RunFolder(path, lease.check)
        configs.save(config, folder.config_file)
        folder.save_versions()
        yield folder, lease


def _prepare_smollm2(model: Path) -> None:
    """Make the folder, unless its name tells that another model was meant to be there."""
    from sdpo_megatron.weights import smollm2

    if model.name != smollm2.FOLDER_NAME:
        raise ModelFileError(
            f"model.path={model} holds no config.json: give the folder of a Hugging Face "
            "checkpoint. (The quickstart makes its model by itself, in a folder named "
            f"{smollm2.FOLDER_NAME}.)"
        )
    print(f"preparing SmolLM2-135M-Instruct in {model}", flush=True)
    smollm2.prepare(model)


def check_same_run(config: TrainConfig, folder: Path) -> None:
    """ConfigError when `folder` holds a run that computes something else than `config` says."""
    if not (folder / "config.yaml").is_file():
        return
    saved = configs.load_saved(folder / "config.yaml")
    new, old = dotted(to_plain(config)), dotted(to_plain(saved))
    changed = [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(new.keys() | old.keys())
        if new.get(key) != old.get(key) and not key.startswith(MAY_CHANGE)
    ]
    if changed:
        raise ConfigError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}). Choose another "
            "run.folder, or go on with "
            f"its own settings: sdpo train --resume {folder}"
        )
