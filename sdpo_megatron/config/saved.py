"""A configuration as YAML: printed, saved in the run folder, read again, changed for a resume."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from sdpo_megatron.config.composing import merge, yaml_groups
from sdpo_megatron.config.run import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields.reading import build, to_plain


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number, which YAML 1.1 does not."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would take for a number."""


for _one in (_Loader, _Dumper):
    _one.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), [*"+-0123456789"]
    )


def printed(config: TrainConfig) -> str:
    """The resolved configuration as YAML."""
    return yaml.dump(to_plain(config), Dumper=_Dumper, sort_keys=False)


def save(config: TrainConfig, path: Path) -> None:
    """Write `printed` to `path`."""
    path.write_text(printed(config))


def load_saved(path: Path) -> TrainConfig:
    """The configuration that `save`, or a person, wrote.

    Raises:
        ConfigError: It is no YAML, or not a configuration of this version; the message ends with
            the file's name.
    """
    try:
        plain = yaml.load(path.read_text(), _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(plain, dict):
        raise ConfigError(
            f"{path} holds no settings: expected keys and values, as in `sdpo config`"
        )
    try:
        return build(TrainConfig, plain)
    except ConfigError as error:
        lines = (f"{line} (in {path})" for line in str(error).splitlines())
        raise ConfigError("\n".join(lines)) from None


def load_resumed(path: Path, overrides: Sequence[str]) -> TrainConfig:
    """The configuration of an earlier run with some settings changed (``key=value`` only).

    Raises:
        ConfigError: As `load`.
    """
    chosen = [o for o in overrides if o.partition("=")[0] in yaml_groups()]
    if chosen:
        raise ConfigError(
            "\n".join(
                f"{o}: a group is chosen when a configuration is composed; a saved one takes "
                "settings, as in run.steps=20"
                for o in chosen
            )
        )
    return build(TrainConfig, merge(TrainConfig, to_plain(load_saved(path)), overrides))
