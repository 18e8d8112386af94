"""What can be compared, by name: each is some overrides of the experiment that all share."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from sdpo_megatron.errors import ConfigError


@dataclass(frozen=True)
class Variant:
    """A name for folders and tables, and the overrides that make it."""

    name: str
    overrides: tuple[str, ...] = ()


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("as_is"),  # the experiment, nothing changed
        Variant("sdpo", ("objective=sdpo",)),
        Variant("grpo", ("objective=grpo",)),
        Variant("grpo_kl", ("objective=grpo_kl",)),
        Variant("sft", ("objective=sft",)),
        Variant("hybrid", ("objective=hybrid",)),
        Variant("full_vocabulary", ("objective=sdpo_full",)),
        Variant("forward_kl", ("objective=sdpo_forward_kl",)),
        Variant("null_corrected", ("objective=sdpo_null_corrected",)),
        Variant("token_level", ("objective=sdpo_token",)),
        Variant("sequence_level", ("objective=sdpo_sequence",)),
        Variant("frozen_teacher", ("teacher=frozen",)),
        Variant("slow_teacher", ("teacher=ema_slow",)),
        Variant("live_teacher", ("teacher=live",)),
        Variant("trust_region", ("teacher=trust_region",)),
    )
}
USUAL = ("as_is", "grpo", "grpo_kl", "sft")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def chosen(words: Sequence[str]) -> tuple[Variant, ...]:
    """The variants of the given words: a name of `VARIANTS`, or ``name: override override``.

    Raises:
        ConfigError: An unknown name, one given twice, or one that cannot be a folder's.
    """
    found = [_variant(word) for word in words or USUAL]
    names = [variant.name for variant in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"variants given twice: {', '.join(twice)}")
    return tuple(found)


def _variant(word: str) -> Variant:
    name, colon, rest = word.partition(":")
    name = name.strip()
    if colon:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"variant {name!r}: a name of small letters, digits, _ . - is expected, as in "
                "--variant 'wide: objective.distillation.top_k=1000'"
            )
        return Variant(name, tuple(shlex.split(rest)))
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"there is no variant {name!r}; {hint}known: {', '.join(VARIANTS)}; your own is "
            "written as --variant 'name: override override'"
        )
    return VARIANTS[name]
