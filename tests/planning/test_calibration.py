"""Speeds from a run, and a real run's phases predicted with those of another.

The measurements are of two real runs of the quickstart on one machine of two cores: one of two
steps, and one of eight (columns of their metrics.jsonl).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sdpo_megatron import config as configs
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.calibration import (
    Measured,
    calibrated,
    compared,
    fitted_lengths,
)
from sdpo_megatron.planning.speeds import Speeds
from sdpo_megatron.weights.spec import ModelSpec

SMOLLM2 = ModelSpec(
    model_type="llama",
    num_layers=30,
    hidden=576,
    ffn_hidden=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab=49152,
    max_position=8192,
    norm_eps=1e-5,
    rope_theta=1e5,
    tied=True,
)


def measured(name: str) -> Measured:
    lines = (Path(__file__).parent / "measured" / f"{name}.jsonl").read_text().splitlines()
    return Measured(
        config=configs.load(["experiment=quickstart"]),
        spec=SMOLLM2,
        prompt=150,
        teacher_prompt=230,
        steps=tuple(json.loads(line) for line in lines),
    )


def test_a_quickstart_is_predicted_within_a_fifth_by_another_run() -> None:
    speeds = calibrated(measured("two_steps"), "two steps")
    for phase, predicted, seen in compared(measured("quickstart"), speeds):
        assert predicted == pytest.approx(seen, rel=0.2), phase


def test_work_counts_not_only_steps() -> None:
    """Half the attempts taught are half the trainer's work; the rollout stays."""
    run = measured("quickstart")
    speeds = calibrated(measured("two_steps"), "two steps")
    halved = replace(
        run,
        steps=tuple({**m, "train/tokens": m["train/tokens"] / 2} for m in run.steps),
    )
    full = {name: seconds for name, seconds, _ in compared(run, speeds)}
    half = {name: seconds for name, seconds, _ in compared(halved, speeds)}
    assert half["rollout"] == full["rollout"]
    # A pipeline of half as many micro-batches pays more for its ends.
    assert 0.5 * full["student"] < half["student"] < 0.65 * full["student"]


def test_a_run_predicts_itself() -> None:
    """Rates times work give back the seconds of the steps that they were taken from."""
    run = measured("quickstart")
    kept = replace(run, steps=run.steps[1:])
    for phase, predicted, seen in compared(kept, calibrated(run, "itself")):
        assert predicted == pytest.approx(seen, rel=0.1), phase


@pytest.mark.parametrize(("mean", "cut"), [(50.06, 0.5625), (19.0, 0.03), (12.3, 0.0)])
def test_fitted_lengths_have_the_mean_and_nearly_the_cut(mean: float, cut: float) -> None:
    found = fitted_lengths(mean, cut, 64)
    assert found.expected() == pytest.approx(mean, rel=1e-3)
    assert found.cut_share() == pytest.approx(cut, abs=0.03)


def test_one_step_is_too_few() -> None:
    run = measured("two_steps")
    with pytest.raises(ConfigError, match="two steps or more"):
        calibrated(replace(run, steps=run.steps[:1]), "one")


def test_speeds_survive_a_file(tmp_path: Path) -> None:
    speeds = calibrated(measured("two_steps"), "two steps")
    speeds.write(tmp_path / "speeds.json")
    assert Speeds.read(tmp_path / "speeds.json") == speeds
    (tmp_path / "speeds.json").write_text('{"title": "x"}')
    with pytest.raises(ConfigError, match="not a file of speeds"):
        Speeds.read(tmp_path / "speeds.json")


def test_what_is_no_run_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run folder"):
        Measured.read(tmp_path, prompt=1, teacher_prompt=1)
