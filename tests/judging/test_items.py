"""An item's name is the sha256 of its canonical JSON: the same wherever it is written."""

from __future__ import annotations

import hashlib
import json

import pytest

from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.service.item_cache import ItemCache
from sdpo_megatron.verifiers.base import BadItem


def test_the_name_is_of_the_content_and_not_of_its_order() -> None:
    one = Item({"b": [1, 2.5, "ü\ud800"], "a": None})
    assert one.json() == b'{"a":null,"b":[1,2.5,"\\u00fc\\ud800"]}'
    assert one.sha256 == hashlib.sha256(one.json()).hexdigest()
    assert Item({"a": None, "b": [1, 2.5, "ü\ud800"]}).sha256 == one.sha256
    assert Item(json.loads(one.json())).sha256 == one.sha256
    assert Item({"a": None, "b": [2.5, 1, "ü\ud800"]}).sha256 != one.sha256


def test_what_is_no_json_is_a_bad_item() -> None:
    circle: dict[str, object] = {}
    circle["self"] = circle
    for data in ({"a": {1}}, {"a": b""}, {1: 2, "b": 3}, circle):
        with pytest.raises(BadItem, match="not JSON"):
            _ = Item(data).sha256  # type: ignore[arg-type]


def of_size(size: int, letter: str) -> dict[str, str]:
    """An item whose JSON has `size` bytes."""
    return {"a": letter * (size - len('{"a":""}'))}


def test_the_least_recently_used_items_go_first_and_the_bound_holds() -> None:
    cache = ItemCache(limit_bytes=300)
    names = [cache.add(of_size(100, letter)) for letter in "abc"]
    assert cache.size_bytes == 300
    assert cache.get(names[0]) is not None  # used: b is the oldest now
    cache.add(of_size(100, "d"))
    assert [cache.get(name) is not None for name in names] == [True, False, True]
    assert cache.size_bytes == 300
    cache.add(of_size(250, "e"))
    assert cache.size_bytes == 250
    assert [cache.get(name) for name in names] == [None] * 3


def test_an_item_sent_twice_is_kept_once() -> None:
    cache = ItemCache(limit_bytes=300)
    assert cache.add({"a": 1, "b": 2}) == cache.add({"b": 2, "a": 1})
    assert cache.size_bytes == len('{"a":1,"b":2}')


def test_an_item_that_never_fits_is_refused_and_displaces_nothing() -> None:
    cache = ItemCache(limit_bytes=300)
    kept = cache.add(of_size(100, "a"))
    with pytest.raises(ValueError, match="an item of 301 bytes, but at most 300 are kept"):
        cache.add(of_size(301, "b"))
    assert cache.get(kept) is not None
