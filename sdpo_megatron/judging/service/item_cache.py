"""The items that a service was sent, by the sha256 of their canonical JSON: the newest, bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from sdpo_megatron.judging.items import Item


class ItemCache:
    """Least recently used items go first. The names are computed here, never believed."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._size = 0

    def get(self, sha256: str) -> Item | None:
        """The item of this name; None when it was never sent, or dropped since."""
        item = self._items.get(sha256)
        if item is not None:
            self._items.move_to_end(sha256)
        return item

    def add(self, data: Mapping[str, Any]) -> str:
        """Keep an item; its sha256.

        Raises:
            ValueError: It is larger than the whole cache.
            BadItem: It is not JSON.
        """
        item = Item(data, keep_json=True)
        size = len(item.json())
        if size > self._limit:
            raise ValueError(f"an item of {size} bytes, but at most {self._limit} are kept")
        if self.get(item.sha256) is None:
            self._items[item.sha256] = item
            self._size += size
        while self._size > self._limit:
            _, oldest = self._items.popitem(last=False)
            self._size -= len(oldest.json())
        return item.sha256

    @property
    def size_bytes(self) -> int:
        """JSON kept now."""
        return self._size
