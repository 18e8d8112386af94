"""From hydra overrides to a checked config.

Keys are looked up before hydra is asked: a misspelt one gets our words and every mistake is told at
once, not the first alone. What hydra does is its own: groups, experiments, values, interpolation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sdpo_megatron.config.run import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields.nearest import nearest, unknown_key
from sdpo_megatron.fields.reading import Setting, all_settings, build, defaults

CONF = Path(__file__).parent.parent / "conf"
T = TypeVar("T")


def load(overrides: Sequence[str] = ()) -> TrainConfig:
    """Compose the configuration from hydra overrides (``group=choice`` and ``key=value``), then
    build and check it.

    Raises:
        ConfigError: A line for each unknown key or group (the nearest is named), each value out of
            its range, and settings that contradict each other.
    """
    known, problems = [], []
    groups = yaml_groups()
    keys = [setting.key for setting in all_settings(TrainConfig)]
    for override in overrides:
        key, value = _split(override)
        if key in groups:
            problem = _unknown_choice(key, value, groups[key])
            known.append(override)
        else:
            problem = _unknown(key, [*keys, *groups])
            if not problem and override[0] not in "+~":
                _value(override)
                # Every default is there, but a group may be null, or a variant another one: add it.
                override = f"++{override}"
            known.append(override)
        if problem:
            problems.append(problem)
            known.pop()
    try:
        config = build(TrainConfig, _without_other_variants(_composed(known), overrides))
    except ConfigError as error:
        raise ConfigError("\n".join([*problems, str(error)])) from None
    if problems:
        raise ConfigError("\n".join(problems))
    if config.teacher.kind == "live":
        warnings.warn(
            "teacher.kind=live diverges in the paper (Table 4: 36.1 against 49.3 with ema)",
            stacklevel=2,
        )
    return config


def compose(cls: type[T], overrides: Sequence[str], given: Mapping[str, Any] | None = None) -> T:
    """A config dataclass without YAML groups from hydra overrides (``key=value``).

    Args:
        given: Plain data that takes the place of defaults.

    Raises:
        ConfigError: As `load`.
    """
    start = _updated(defaults(cls), given or {})
    return build(cls, merge(cls, start, overrides))


def merge(cls: type, plain: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`plain`, data of `cls`, with the settings of `overrides` (``key=value``) in their places.

    Where another variant of a group is chosen, what only the old one had is left out.

    Raises:
        ConfigError: A key that does not exist, or an override that cannot be read.
    """
    from omegaconf import OmegaConf

    declared = list(all_settings(cls))
    problems, merged = [], OmegaConf.create(plain)
    for override in overrides:
        key, _ = _split(override)
        if problem := _unknown(key, [setting.key for setting in declared]):
            problems.append(problem)
            continue
        value = _value(override)
        for stale in _of_other_variants(declared, key, value):
            if OmegaConf.select(merged, stale) is not None:
                group, _, name = stale.rpartition(".")
                del OmegaConf.select(merged, group)[name]
        OmegaConf.update(merged, key, value, force_add=True)
    if problems:
        raise ConfigError("\n".join(problems))
    return _resolved(merged)


def _composed(overrides: Sequence[str]) -> dict[str, Any]:
    """What hydra makes of overrides whose keys and choices exist."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="defaults", node=defaults(TrainConfig))
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return _resolved(hydra_compose("train", overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).strip().splitlines()[0].replace("++", "")) from error


def _resolved(node: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).strip().splitlines()[0]) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _split(override: str) -> tuple[str, str]:
    """(key, value) of an override, without hydra's signs."""
    key, separator, value = override.partition("=")
    if not key.lstrip("+~") or (not separator and not override.startswith("~")):
        raise ConfigError(
            f"{override}: an override is written as key=value, or group=choice, as in "
            "experiment=quickstart run.steps=8"
        )
    return key.lstrip("+~").partition("@")[0], value


def _value(override: str) -> Any:
    """The value of one override, read by hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{override}: cannot be read: {reason}") from error
    if parsed.is_delete() or parsed.is_sweep_override():
        raise ConfigError(f"{override}: one value is needed, as key=value")
    return parsed.value()


def _unknown(key: str, known: Sequence[str]) -> str | None:
    """What is wrong with a key; None when it is a setting or a group of them."""
    if any(name == key or name.startswith(f"{key}.") for name in known):
        return None
    return unknown_key(key, known)


def _without_other_variants(plain: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Leave out what YAML gave to a variant when another one is chosen by its key alone, as in
    ``teacher.kind=frozen``; what was typed stays, and is an error.
    """
    typed = dict(_split(override) for override in overrides)
    declared = list(all_settings(TrainConfig))
    for key, value in typed.items():
        for stale in _of_other_variants(declared, key, value) - typed.keys():
            group: Any = plain
            *path, name = stale.split(".")
            for part in path:
                group = group[part]
            group.pop(name, None)
    return plain


def _of_other_variants(declared: Sequence[Setting], key: str, value: Any) -> set[str]:
    """Settings that go when the discriminator `key` becomes `value`."""
    owners: dict[str, set[str]] = {}
    for setting in declared:
        if setting.variant and setting.variant[0] == key:
            owners.setdefault(setting.key, set()).add(setting.variant[1])
    return {name for name, tags in owners.items() if value not in tags and name != key}


def yaml_groups() -> dict[str, list[str]]:
    """The YAML groups and their choices."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(CONF.iterdir())
        if folder.is_dir() and not folder.name.startswith("_")
    }


def _unknown_choice(group: str, choice: str, choices: Sequence[str]) -> str | None:
    if choice in choices or choice == "null" or choice[:1] in "[{":
        return None
    near = nearest(choice, choices)
    hint = f"did you mean {group}={near[0]}? " if near else ""
    return f"{group}={choice}: there is no such choice; {hint}choices: {', '.join(choices)}"


def _updated(plain: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(plain.get(key), dict):
            _updated(plain[key], value)
        else:
            plain[key] = value
    return plain
