"""An item and its name: the sha256 of its canonical JSON, so that it travels to a service once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from sdpo_megatron.verifiers.base import BadItem


class Item:
    """What a verifier needs to know of a question. Its `data` must not change after this."""

    def __init__(self, data: Mapping[str, Any], *, keep_json: bool = False) -> None:
        """Wrap `data`; `keep_json` keeps its canonical JSON in memory beside it."""
        self.data = data
        self._kept = self._written() if keep_json else None

    def json(self) -> bytes:
        """The canonical JSON: ASCII, keys sorted, no blanks.

        Raises:
            BadItem: The item cannot be written as JSON.
        """
        return self._written() if self._kept is None else self._kept

    def _written(self) -> bytes:
        try:
            text = json.dumps(dict(self.data), sort_keys=True, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise BadItem(f"an item that is not JSON: {error}") from error
        return text.encode("ascii")

    @cached_property
    def sha256(self) -> str:
        """Its name: 64 hexadecimal digits.

        Raises:
            BadItem: See `json`.
        """
        return hashlib.sha256(self.json()).hexdigest()
