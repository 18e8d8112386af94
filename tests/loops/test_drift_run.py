"""Whole runs whose engine serves FP8: it drifts, and the run stops or goes on in bf16.

On a CPU the FP8 products are a stand-in's that rounds as they do (serving/stand_ins).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdpo_megatron.exit_codes import USER_ERROR
from tests.loops import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
BF16 = ("precision=bf16", "rollout.engine.dtype=bfloat16", "rollout.engine.precision=fp8")
LIMIT = 0.01


def overrides(model: Path, folder: Path, *more: str) -> list[str]:
    return runs.overrides(model, folder, *BF16, f"drift.engine_limit={LIMIT}", *more)


def test_engines_that_drift_go_on_in_bf16(tiny_wide: Path, tmp_path: Path) -> None:
    """And so they do after a resume."""
    folder = tmp_path / "run"
    more = ("drift.action=fall_back", "run.steps=3")
    said = runs.finish(runs.start(overrides(tiny_wide, folder, *more)))
    assert "engines are restarted with rollout.engine.precision=same" in said
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    gaps = [step["importance/log_prob_gap"] for step in steps]
    assert gaps[0] > LIMIT
    assert max(gaps[1:]) < LIMIT
    assert [step["drift/fallbacks"] for step in steps] == [1.0, 0.0, 0.0]
    # Both kinds of versions were proven by their checksums.
    swaps = [json.loads(line) for line in (folder / "swaps.jsonl").read_text().splitlines()]
    assert [swap["version"] for swap in swaps] == [0, 1, 2, 3]
    assert all(len(swap["checksum"]) == 64 for swap in swaps)

    said = runs.finish(runs.start(overrides(tiny_wide, folder, *more[:1], "run.steps=4")))
    assert "engines are restarted with rollout.engine.precision=same" in said
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 4
    assert last["importance/log_prob_gap"] < LIMIT


def test_a_run_that_may_not_fall_back_stops_before_the_step(
    tiny_wide: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    said = runs.finish(runs.start(overrides(tiny_wide, folder)), code=USER_ERROR)
    assert f"(drift.engine_limit={LIMIT})" in said
    assert "the optimiser step was not taken" in said
    assert not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text()
