"""Requests in flight follow from the engines unless somebody says otherwise."""

from __future__ import annotations

import pytest

from sdpo_megatron.rollout.capacity import requests_in_flight
from sdpo_megatron.rollout.config import SamplingConfig
from serving.config import EngineConfig


@pytest.mark.parametrize(
    ("asked", "running", "engines", "expected"),
    [(None, 48, 3, 144), (None, 0, 2, 512), (7, 48, 3, 7), (None, 48, 0, 48)],
    ids=["theirs together", "nobody said", "somebody said", "none found yet"],
)
def test_requests_in_flight(asked: int | None, running: int, engines: int, expected: int) -> None:
    sampling = SamplingConfig(concurrency=asked)
    engine = EngineConfig(max_running_requests=running)
    assert requests_in_flight(sampling, engine, engines) == expected
