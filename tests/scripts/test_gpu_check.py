"""The check for a card, run without one: its stages work, and it says what failed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts import gpu_check, gpu_stages


def test_every_stage_has_a_function_and_a_limit() -> None:
    assert list(gpu_check.STAGES) == list(gpu_stages.STAGES)
    assert gpu_check.ENGINE == ("engine", "engine_fp8", "engine_memory")
    for name in gpu_check.STAGES:
        assert f"    {name}" in (gpu_check.__doc__ or "")


def test_an_unknown_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main(["tensorwize"])
    assert "unknown: tensorwize; there are: versions, local" in capsys.readouterr().err


def test_what_fails_or_hangs_is_recorded_and_the_rest_still_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\ncase $3 in local) echo broken >&2; exit 1;; loss) sleep 30;;\n"
        '*) echo \'{"status": "passed", "x": 1}\';; esac\n'
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setitem(gpu_check.STAGES, "loss", 0.5)
    out = tmp_path / "found.json"
    assert gpu_check.main(["local", "loss", "hash", "--out", str(out)]) == 1
    local, loss, last = json.loads(out.read_text())
    assert (local["status"], local["why"]) == ("failed", "broken\n")
    assert (loss["status"], loss["why"]) == ("failed", "took more than 0.5 s")
    assert (last["status"], last["x"]) == ("passed", 1)


@pytest.mark.slow
def test_stages_run_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    stages = ["local", "loss", "hash", "engine"]
    assert gpu_check.main([*stages, "--dry-run", "--out", str(out)]) == 0, out.read_text()
    local, loss, last, engine = json.loads(out.read_text())
    assert all(record["dry_run"] for record in (local, loss, last, engine))
    assert engine["gap_mean"] < 1e-4
    assert local["logits_error"] < 1e-5
    assert local["teacher_leaves_nothing"] is True
    assert max(loss["against_float64"].values()) < 1e-4
    assert last["ours"] == "659b1a9157edcd98"
