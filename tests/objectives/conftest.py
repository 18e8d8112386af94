"""Tensor-parallel worlds that live for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.objectives.ranks import Ranks


@pytest.fixture(scope="session")
def tp2() -> Iterator[Ranks]:
    with Ranks(2) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def tp4() -> Iterator[Ranks]:
    with Ranks(4) as ranks:
        yield ranks
