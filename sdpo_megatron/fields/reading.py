"""Nested config dataclasses from plain data and back, and the settings that there are."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields.nearest import unknown_key
from sdpo_megatron.fields.wording import assignment, complaints

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a config dataclass.

    Attributes:
        key: Dotted, from the top.
        owner: The dataclass that declares it.
        name: Of the field.
        default: Plain data; MISSING where it must be given.
        variant: The discriminator's key and value when the setting belongs to one variant of a
            group, e.g. ("teacher.kind", "ema"); None otherwise.
    """

    key: str
    owner: type
    name: str
    default: Any
    variant: tuple[str, str] | None = None

    @property
    def field(self) -> FieldInfo:
        """pydantic's declaration: annotation and constraints."""
        fields: dict[str, FieldInfo] = self.owner.__pydantic_fields__  # type: ignore[attr-defined]
        return fields[self.name]


MISSING: Any = object()


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """`cls`, a config dataclass or a union of variants, from nested plain data; keys not given keep
    their defaults.

    Raises:
        ConfigError: A line for everything that is wrong, which begins with the key.
    """
    try:
        # As JSON, because strict validation of Python objects takes no list for a tuple and no
        # mapping for a dataclass.
        return TypeAdapter(cls).validate_json(json.dumps(values))
    except ValidationError as error:
        unknown = functools.partial(_unknown, cls, values)
        raise ConfigError("\n".join(complaints(error, values, unknown))) from None


def to_plain(config: Any) -> dict[str, Any]:
    """The inverse of `build`: nested plain data, ready for YAML."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain data by the keys that a person types; a list is one value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= dotted(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def defaults(cls: type) -> dict[str, Any]:
    """Every default as nested plain data. Of a group with variants only the discriminator: another
    variant may be chosen, to which the rest does not belong.
    """
    found: dict[str, Any] = {}
    for name, info in cls.__pydantic_fields__.items():  # type: ignore[attr-defined]
        value = info.get_default(call_default_factory=True)
        if info.discriminator is not None:
            found[name] = {info.discriminator: getattr(value, str(info.discriminator))}
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            found[name] = defaults(type(value))
        elif not info.is_required():
            found[name] = _plain(value)
    return found


def all_settings(cls: type, prefix: str = "") -> Iterator[Setting]:
    """Every setting of `cls` and its groups, those of all variants included, in order."""
    for name, info in cls.__pydantic_fields__.items():  # type: ignore[attr-defined]
        key = f"{prefix}{name}"
        groups = groups_of(info)
        if not groups:
            default = MISSING if info.is_required() else info.get_default(call_default_factory=True)
            yield Setting(key, cls, name, _plain(default))
        for group in groups:
            for setting in all_settings(group, f"{key}."):
                if info.discriminator is not None and setting.variant is None:
                    tag = group.__pydantic_fields__[info.discriminator].default  # type: ignore[attr-defined]
                    setting = dataclasses.replace(
                        setting, variant=(f"{key}.{info.discriminator}", tag)
                    )
                yield setting


def groups_of(info: FieldInfo) -> list[type]:
    """The config dataclasses that a field can hold: one for a group, several for its variants."""
    return [
        kind
        for kind in _members(info.annotation)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    ]


def _members(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _members(member)
    elif origin is typing.Annotated:
        yield from _members(typing.get_args(annotation)[0])
    else:
        yield annotation


def _unknown(cls: type, values: Mapping[str, Any], key: str, value: Any) -> str:
    """The line for a key that does not exist, or not in the variant that was chosen."""
    declared = list(all_settings(cls)) if dataclasses.is_dataclass(cls) else []
    of_variants = [s.variant for s in declared if s.key == key and s.variant]
    if not of_variants:
        return unknown_key(key, [setting.key for setting in declared])
    discriminator = of_variants[0][0]
    chosen: Any = values
    for name in discriminator.split("."):
        chosen = chosen[name]
    owners = " or ".join(tag for _, tag in of_variants)
    return (
        f"{assignment(key, value)}: belongs to {discriminator}={owners}, but here "
        f"{assignment(discriminator, chosen)}"
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_plain(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
