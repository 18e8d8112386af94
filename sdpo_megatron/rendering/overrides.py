"""From a config dataclass to the command line that composes it: what differs from the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdpo_megatron.fields.reading import defaults, to_plain
from sdpo_megatron.fields.wording import shown


def overrides(config: Any) -> dict[str, str]:
    """Each setting of `config` that has not its default, by its key, as hydra reads it."""
    given, usual = _flat(to_plain(config)), _flat(defaults(type(config)))
    return {key: shown(value) for key, value in given.items() if value != usual.get(key, _NOTHING)}


_NOTHING = object()


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
