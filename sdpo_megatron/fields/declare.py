"""Config dataclasses that check themselves, however they are made."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields.nearest import unknown_key
from sdpo_megatron.fields.wording import Contradiction, complaints

T = TypeVar("T")

# Strict: true is no number, "1" is no integer, 1.0 is none either. NaN and infinity are refused.
_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass whose fields are checked against their declared ranges.

    Made directly, it raises ConfigError with one line for each wrong field; made by `reading.build`
    as a part of a whole, those lines begin with the key from the top.
    """
    made: Any = dataclass(cls, frozen=True, kw_only=True, config=_CONFIG)
    checked: Any = made.__init__

    @functools.wraps(checked)
    def __init__(self: Any, **values: Any) -> None:
        try:
            checked(self, **values)
        except ValidationError as error:
            names = made.__pydantic_fields__
            lines = complaints(error, values, lambda key, _: unknown_key(key, names))
            raise ConfigError("\n".join(lines)) from None

    made.__init__ = __init__
    checked_class: type[T] = made
    return checked_class


def refuse(config: object, problems: Sequence[tuple[str, str]]) -> None:
    """Raise what is wrong between the fields of `config`, from its `__post_init__`.

    Args:
        problems: (field, what to say of it). In the text ``{name}`` becomes the key and value of
            another field, ``{name:key}`` its key alone, ``{{word}}`` plain braces; dots reach into
            groups. Nothing is raised when there are none.

    Raises:
        Contradiction: It reaches the caller as a line of a ConfigError.
    """
    if problems:
        raise Contradiction(config, problems)
