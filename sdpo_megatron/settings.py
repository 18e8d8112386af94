"""Nested frozen dataclasses from plain dictionaries, strictly: unknown keys name the nearest known
one, types are checked.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from sdpo_megatron.errors import ConfigError

T = TypeVar("T")


def defaults(cls: type) -> dict[str, Any]:
    """The default values of a config dataclass as nested plain data (tuples become lists)."""
    return {field.name: _plain(_default(field)) for field in dataclasses.fields(cls) if field.init}


def build(cls: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """`cls` from `values`; keys not given keep their defaults.

    Raises:
        ConfigError: An unknown key (the nearest known one is named) or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    known = {field.name: hints[field.name] for field in fields}
    for key in values:
        if key not in known:
            raise ConfigError(unknown_key(f"{path}{key}", [f"{path}{name}" for name in known]))
    given = {key: _convert(known[key], value, f"{path}{key}") for key, value in values.items()}
    return cls(**given)


def to_plain(config: Any) -> dict[str, Any]:
    """The inverse of `build`: nested plain data, ready for YAML."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that does not exist."""
    tail = key.rpartition(".")[2]
    near = (
        difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        or [
            name
            for name in known
            if name.rpartition(".")[2]
            in difflib.get_close_matches(
                tail, [k.rpartition(".")[2] for k in known], n=1, cutoff=0.6
            )
        ][:1]
    )
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known)[:20])}"
    return f"unknown config key {key!r}: {hint}"


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "???"  # hydra's mark of a value that must be given


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_plain(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _convert(kind: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(kind, value, path)
    if origin is typing.Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ConfigError(f"{path}={value!r}: expected one of {', '.join(map(str, choices))}")
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={value!r}: expected a group of settings")
        return build(kind, value, f"{path}.")
    if origin in (tuple, list):
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise ConfigError(f"{path}={value!r}: expected a list, written as {path}=[a,b]")
        item_type = typing.get_args(kind)[0]
        items = [_convert(item_type, item, f"{path}[{i}]") for i, item in enumerate(value)]
        return items if origin is list else tuple(items)
    if origin in (dict, Mapping) or kind is dict or (origin and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={value!r}: expected a mapping")
        return dict(value)
    return _convert_scalar(kind, value, path)


def _convert_union(kind: Any, value: Any, path: str) -> Any:
    problems = []
    for option in typing.get_args(kind):
        if option is type(None):
            if value is None:
                return None
            continue
        try:
            return _convert(option, value, path)
        except ConfigError as error:
            problems.append(str(error))
    raise ConfigError(problems[0] if problems else f"{path}={value!r}: expected {kind}")


def _convert_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-5 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, kind) and not (kind is not bool and isinstance(value, bool)):
        return value
    raise ConfigError(f"{path}={value!r}: expected {kind.__name__}, got {type(value).__name__}")
