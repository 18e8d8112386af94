"""Backend: whatever judges by the name of a verifier. This machine is one, services are another."""

from __future__ import annotations

from typing import Protocol

from sdpo_megatron.judging.items import Item
from sdpo_megatron.nouns import Verdict


class Backend(Protocol):
    """Judges by the name of a verifier."""

    async def verify(self, verifier: str, item: Item, response: str) -> Verdict:
        """Judge one response.

        Raises:
            VerifierUnavailable: Infrastructure failed; says nothing about the response.
            BadItem: The item is unusable: a mistake in the task.
            VerifierBroken: The verifier raised: a mistake in the verifier.
            ConfigError: There is no such verifier, or a setting keeps it from judging.
        """
        ...
