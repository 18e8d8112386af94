"""Waiting for many engines: a quorum, those that are late, and what a failure does to the rest."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from sdpo_megatron.errors import EngineDiedError, EngineError
from serving.swapping.settle import settle
from serving.transports.transport import Patience


async def _after(seconds: float, value: int) -> int:
    await asyncio.sleep(seconds)
    return value


async def _refuses() -> int:
    raise EngineError("no")


def _patience(quorum: int, late_after_s: float = 0.05, within_s: float = 60.0) -> Patience:
    return Patience(quorum, late_after_s, time.monotonic() + within_s)


def test_all_in_time() -> None:
    work = {"a": _after(0, 1), "b": _after(0.01, 2)}
    assert asyncio.run(settle(work, _patience(1, 60.0), "counted")) == ({"a": 1, "b": 2}, {})


def test_the_rest_is_late_once_a_quorum_is_through() -> None:
    work = {"a": _after(0, 1), "b": _after(0, 2), "stopped": _after(math.inf, 3)}
    results, failures = asyncio.run(settle(work, _patience(2), "took the bucket"))
    assert results == {"a": 1, "b": 2}
    assert isinstance(failures["stopped"], EngineDiedError)
    assert "it is late: 2 of 3 engines took the bucket" in str(failures["stopped"])


def test_without_a_quorum_the_deadline_counts() -> None:
    work = {"a": _after(0, 1), "stopped": _after(math.inf, 2)}
    results, failures = asyncio.run(settle(work, _patience(2, 0.01, within_s=0.2), "paused"))
    assert results == {"a": 1}
    assert "its deadline passed: 1 of 2 engines paused" in str(failures["stopped"])


def test_a_refusal_is_that_engine_s_alone_and_no_part_of_a_quorum() -> None:
    work = {"a": _after(0.1, 1), "b": _refuses(), "c": _refuses()}
    results, failures = asyncio.run(settle(work, _patience(1), "resumed"))
    assert results == {"a": 1}
    assert {key: str(error) for key, error in failures.items()} == {"b": "no", "c": "no"}


def test_a_mistake_of_ours_is_raised_and_nothing_goes_on() -> None:
    ended: list[str] = []

    async def long() -> int:
        try:
            await asyncio.sleep(math.inf)
        finally:
            ended.append("long")
        return 0

    async def wrong() -> int:
        await asyncio.sleep(0)
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        asyncio.run(settle({"a": long(), "b": wrong()}, _patience(1), "x"))
    assert ended == ["long"]


def test_a_quorum_is_rounded_up() -> None:
    from serving.config import EngineConfig

    config = EngineConfig()
    counts = {n: Patience.of(config, n, 1.0).quorum for n in (0, 1, 2, 3, 300)}
    assert counts == {0: 1, 1: 1, 2: 1, 3: 2, 300: 150}
