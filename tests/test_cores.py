"""Cores: what the scheduler allows, or a container's limit where that is less."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdpo_megatron.cores import usable_cores

HERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        (None, HERE),
        ("max 100000", HERE),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("100000000 100000", HERE),
        ("nonsense", HERE),
    ],
)
def test_the_least_of_both(text: str | None, cores: int, tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    if text is not None:
        quota.write_text(text + "\n")
    assert usable_cores(quota) == cores
