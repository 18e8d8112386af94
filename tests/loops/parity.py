"""Verifiers that even a random model satisfies: about half of the time, rarely, never."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdpo_megatron.nouns import Verdict


class EvenLength:
    """An attempt succeeds when its text has an even number of characters."""

    name = "even_length"

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        success = len(response) % 2 == 0
        feedback = "" if success else f"{len(response)} characters: an odd number."
        return Verdict(reward=float(success), success=success, format_ok=True, feedback=feedback)


class Rare:
    """An attempt succeeds when the number of its characters is divisible by seven."""

    name = "rare"

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        success = len(response) % 7 == 0
        feedback = "" if success else f"{len(response)} characters: not a multiple of seven."
        return Verdict(reward=float(success), success=success, format_ok=True, feedback=feedback)


class Never:
    """No attempt succeeds."""

    name = "never"

    def verify(self, item: Mapping[str, Any], response: str) -> Verdict:
        return Verdict(reward=0.0, success=False, format_ok=True, feedback="This is never right.")
