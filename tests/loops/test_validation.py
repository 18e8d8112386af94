"""A real run that is measured in epochs and validates: before training, when due, at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.loops import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_run_of_two_epochs_validates_with_metrics_of_its_own(
    tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    more = ("run.steps=null", "run.epochs=2", "validation.every=3", "validation.split=null")
    more += ("validation.num_attempts=2", "validation.limit=3", "run.checkpoint_every=0")
    output = runs.finish(runs.start(runs.overrides(tiny_llama, folder, *more)))
    assert "finished after step 4" in output  # 2 x 4 questions in batches of 2
    lines = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    assert [(line["step"], line["policy_version"]) for line in lines] == [(0, 0), (3, 3), (4, 4)]
    assert all(line["validation/attempts"] == 6 for line in lines)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [step["validation/success_rate"] for step in steps]
    assert found[:2] == [None, None]
    assert found[2:] == [line["validation/success_rate"] for line in lines[1:]]
    assert all(step["rollout/attempts"] == 6 for step in steps)  # training's own
