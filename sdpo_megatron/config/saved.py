"""A configuration as YAML: printed, saved in the run folder, read again, changed for a resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from sdpo_megatron.config.composing import merge, yaml_groups
from sdpo_megatron.config.run import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields.reading import build, to_plain


def printed(config: TrainConfig) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(to_plain(config), sort_keys=False)


def save(config: TrainConfig, path: Path) -> None:
    """Write `printed` to `path`."""
    path.write_text(printed(config))


def load_saved(path: Path) -> TrainConfig:
    """The configuration that `save` wrote.

    Raises:
        ConfigError: It was written by another version, with other settings.
    """
    return build(TrainConfig, yaml.safe_load(path.read_text()))


def load_resumed(path: Path, overrides: Sequence[str]) -> TrainConfig:
    """The configuration of an earlier run with some settings changed (``key=value`` only).

    Raises:
        ConfigError: As `load`.
    """
    chosen = [o for o in overrides if o.partition("=")[0] in yaml_groups()]
    if chosen:
        raise ConfigError(
            "\n".join(
                f"{o}: a group is chosen when a run starts; a resumed one takes settings, as "
                "in run.steps=20"
                for o in chosen
            )
        )
    return build(TrainConfig, merge(TrainConfig, to_plain(load_saved(path)), overrides))
