"""The model of the loss on a GPU: what it counts, and the aims that the CUDA path must meet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent.parent


def modelled(out: Path, *arguments: str) -> dict[str, Any]:
    """In a process of its own: the model puts a stand-in in Triton's place."""
    script = str(REPOSITORY / "benchmarks" / "loss_model.py")
    command = [sys.executable, script, "--out", str(out), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("MODELLED")
    (row,) = json.loads(out.read_text())
    return dict(row)


@pytest.mark.slow
def test_the_aims_at_the_target_size(tmp_path: Path) -> None:
    row = modelled(tmp_path / "row.json", "--mib", "830")
    assert (row["tokens"], row["vocab"], row["hidden"]) == (8192, 151_936, 4096)
    # Four products of the right size and no other, or the rest would mean nothing.
    assert row["flops_over_floor"] == 1.0
    assert row["peak_mib"] <= 1024
    assert row["over_floor"] <= 1.3
    assert row["waits"] <= 6  # for checks, once a call; none in the chunks


@pytest.mark.slow
def test_a_small_case_by_hand(tmp_path: Path) -> None:
    """One chunk of 64 x 6400: bytes of the products alone."""
    sizes = ("--tokens", "64", "--vocab", "6400", "--hidden", "32", "--top-k", "5")
    row = modelled(tmp_path / "row.json", *sizes, "--mib", "100", "--tflops", "1e9")
    head, states, logits = 6400 * 32, 64 * 32, 64 * 6400
    products = (
        2 * (2 * head + 2 * states + 4 * logits)  # student and teacher
        + (2 * logits + 2 * head + 2 * states)  # hidden
        + (2 * logits + 2 * states + 2 * 4 * head)  # weight, read and written in float32
    )
    floor_s = 8 * 64 * 6400 * 32 / 1e21
    assert row["products_over_floor"] * floor_s == pytest.approx(products / 3.0e12, rel=1e-3)
    # Two buffers of float32 logits are the larger part of what is alive.
    assert 2 * 4 * logits <= row["peak_mib"] * 2**20 + 2**19 <= 3 * 4 * logits
