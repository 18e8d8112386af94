"""metrics.jsonl survives kills and resumes without duplicates."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.run_folder import RunFolder, versions


def _report(step: int, loss: float = 0.5) -> StepReport:
    return StepReport(step=step, policy_version=step + 100, metrics={"train/loss": loss})


def test_sub_folders_are_made_and_made_again(tmp_path: Path) -> None:
    for _ in range(2):
        folder = RunFolder(tmp_path / "runs" / "a")
    for name in ("rollouts", "checkpoints", "weights", "logs"):
        assert getattr(folder, name) == tmp_path / "runs" / "a" / name
        assert getattr(folder, name).is_dir()


def test_reports_come_back_as_they_were_appended(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.reports() == []
    folder.append(_report(1, loss=0.1 + 0.2))
    folder.append(_report(2))
    assert RunFolder(tmp_path).reports() == [_report(1, loss=0.1 + 0.2), _report(2)]


def test_what_is_not_a_number_is_null_so_that_any_json_reader_takes_the_line(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path)
    metrics = {"teacher/null_kl": math.nan, "train/grad_norm": math.inf, "train/loss": 1.0}
    folder.append(StepReport(step=1, policy_version=1, metrics=metrics))
    record = json.loads(folder.metrics_file.read_text(), parse_constant=pytest.fail)
    assert record == {
        "step": 1, "policy_version": 1,
        "teacher/null_kl": None, "train/grad_norm": None, "train/loss": 1.0,
    }  # fmt: skip
    assert math.isnan(folder.reports()[0].metrics["teacher/null_kl"])


def test_resume_drops_the_steps_that_will_run_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3, 4):
        folder.append(_report(step))
    assert folder.resume_at(3) == 2
    folder.append(_report(3, loss=0.25))
    assert folder.reports() == [_report(1), _report(2), _report(3, loss=0.25)]


def test_a_torn_last_line_is_left_out_and_resume_removes_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append(_report(1))
    with folder.metrics_file.open("a") as file:
        file.write('{"step": 2, "policy_ver')
    assert folder.reports() == [_report(1)]
    assert folder.resume_at(2) == 0
    folder.append(_report(2))
    assert folder.reports() == [_report(1), _report(2)]


def test_resume_of_a_run_without_metrics_makes_no_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.resume_at(1) == 0
    assert not folder.metrics_file.exists()


def test_a_broken_line_in_the_middle_is_named_by_file_and_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text('{"step": 1, "policy_version": 1}\nnonsense\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not JSON"):
        folder.reports()


def test_a_kill_while_appending_loses_no_finished_step(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from sdpo_megatron.nouns import StepReport\n"
        "from sdpo_megatron.observability.run_folder import RunFolder\n"
        "folder = RunFolder(sys.argv[1])\n"
        "for step in range(1, 10**6):\n"
        "    metrics = {'train/loss': float(step)}\n"
        "    folder.append(StepReport(step=step, policy_version=step, metrics=metrics))\n"
        "    print(step, flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        finished = 20 + len(process.stdout.readlines())
    steps = [report.step for report in RunFolder(tmp_path).reports()]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) in (finished, finished + 1)  # the last line may be written, not yet printed


def test_each_start_adds_its_versions(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_versions()
    folder.save_versions()
    first, second = json.loads(folder.versions_file.read_text())
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["versions.json"]
    assert first["packages"] == second["packages"]
    assert first["packages"]["torch"].startswith("2.")


def test_versions_name_the_commit_of_this_checkout() -> None:
    commit = versions()["git_commit"]
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        assert commit is None
        return
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
    )
    assert commit.rstrip("+") == head.stdout.strip()


def test_versions_name_the_instructions_that_round_bfloat16() -> None:
    found = versions()["cpu_flags"]
    supported = torch.cpu.get_capabilities()
    assert ("avx2" in found) == supported["avx2"]
    assert ("avx512_bf16" in found) == supported["avx512_bf16"]
