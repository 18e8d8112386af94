"""From a config dataclass to the command line that composes it: what differs from the defaults."""

from __future__ import annotations

from typing import Any

from sdpo_megatron.fields.reading import defaults, dotted, to_plain
from sdpo_megatron.fields.wording import shown


def overrides(config: Any) -> dict[str, str]:
    """Each setting of `config` that has not its default, by its key, as hydra reads it."""
    given, usual = dotted(to_plain(config)), dotted(defaults(type(config)))
    return {key: shown(value) for key, value in given.items() if value != usual.get(key, _NOTHING)}


_NOTHING = object()
