"""What the page says of a run besides its attempts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.report.run import described, differences
from tests.report.runs import STEPS, write_run


def test_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    run = described(write_run(tmp_path / "a run", steps=1))
    lines = [json.loads(line) for line in STEPS.read_text().splitlines()]
    assert (run["name"], run["model"], run["task"]) == ("a run", "tiny", "gsm8k")
    assert (run["target"], run["steps"]) == ("1", [line["step"] for line in lines])
    success = next(row for row in run["summary"] if row["key"] == "rollout/success_rate")
    assert success["first"] == lines[0]["rollout/success_rate"]
    late = [line["rollout/success_rate"] for line in lines[-2:]]  # a quarter of eight
    assert success["late"] == pytest.approx(sum(late) / 2)
    assert run["settings"]["model.path"] == "models/tiny"
    assert "path: models/tiny" in run["config"]


def test_parts_of_a_step_add_up_to_it(tmp_path: Path) -> None:
    run = described(write_run(tmp_path, steps=1))
    lines = [json.loads(line) for line in STEPS.read_text().splitlines()]
    parts = {part["name"]: part for part in run["phases"]}
    assert parts["student"]["last"] == pytest.approx(lines[-1]["time/student_s"])
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    whole = sum(line["time/step_s"] for line in lines) / len(lines)
    assert sum(part["mean"] for part in parts.values()) == pytest.approx(whole, rel=0.01)
    assert "verify" not in parts  # it overlaps with sampling


def test_validation_and_a_torn_last_line(tmp_path: Path) -> None:
    run = write_run(tmp_path, steps=1)
    line = json.dumps({"step": 4, "policy_version": 4, "validation/success_rate": 0.5})
    (run / "validation.jsonl").write_text(f"{line}\n{line[:20]}")
    (found,) = described(run)["validation"]
    assert (found["step"], found["success_rate"], found["best_of_n"]) == (4, 0.5, None)


def test_what_differs_between_runs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, steps=steps) for name, steps in (("a", 1), ("b", 2))]
    with (runs[1] / "config.yaml").open("a") as file:
        file.write("  folder: b\nx: null\n")
    rows = differences([described(run) for run in runs])
    assert rows == [["run.steps", "1", "2"], ["x", "–", "null"]]


def test_a_run_before_its_first_step(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run:\n  steps: 5\n")
    run = described(tmp_path)
    assert (run["steps"], run["health"], run["phases"], run["summary"]) == ([], [], [], [])


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run folder"):
        described(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"config\.yaml is no YAML"):
        described(tmp_path)
