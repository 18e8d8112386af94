"""What the page of a run holds, without a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.monitoring.dashboards import DASHBOARDS
from sdpo_megatron.monitoring.local.content import data, page
from sdpo_megatron.monitoring.local.server import main

STEPS = Path(__file__).parents[3] / "docs" / "pictures" / "quickstart.jsonl"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "a <run>"
    folder.mkdir()
    shutil.copy(STEPS, folder / "metrics.jsonl")
    return folder


def content(text: str) -> Any:
    (found,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', text)
    return json.loads(found)


def test_the_steps_are_those_of_the_file_and_what_no_step_measured_is_left_out(run: Path) -> None:
    found = data(run)
    lines = [json.loads(line) for line in STEPS.read_text().splitlines()]
    assert found["run"] == "a <run>"
    assert found["steps"] == [line["step"] for line in lines]
    success = found["values"]["rollout/success_rate"]
    assert success == [pytest.approx(line["rollout/success_rate"], rel=1e-5) for line in lines]
    assert "teacher/null_kl" not in found["values"]


def test_every_panel_with_a_curve_of_steps_is_on_the_page(run: Path) -> None:
    pages = content(page(run))["dashboards"]
    shown = {p["title"]: {q["title"] for r in p["rows"] for q in r["panels"]} for p in pages}
    expected = {
        d.title.removeprefix("SDPO / "): {p.title for p in d.panels if any(c.key for c in p.curves)}
        for d in DASHBOARDS
    }
    assert shown == expected
    assert {"Success rate", "Gain of the teacher"} <= shown["Learning"]


def test_the_page_asks_for_nothing_but_itself_and_is_not_broken_by_a_name(run: Path) -> None:
    text = page(run)
    head = text.partition("<style>")[0]
    assert not re.search(r'(src|href)="(?!data:)', head)
    assert "default-src 'none'" in head
    assert "<!--" not in re.sub(r"(?s)<script>.*?</script>", "", text)
    assert "a <run>" not in text.partition('id="content">')[2].partition("</script>")[0]
    assert content(text)["data"]["run"] == "a <run>"
    assert "Leon Sorokin" in text  # uPlot's licence travels with it


def test_a_step_that_is_being_written_is_left_out_and_nothing_is_written(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "policy_ver')
    assert data(run)["steps"] == list(range(1, 9))
    assert [path.name for path in run.iterdir()] == ["metrics.jsonl"]


def test_a_run_before_its_first_step(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    unknown = {"target": None, "running": None}
    assert data(tmp_path) == {"run": tmp_path.name, "steps": [], "values": {}, **unknown}


def test_whether_it_goes_on_is_what_its_lease_says(run: Path) -> None:
    (run / "config.yaml").write_text("run:\n  steps: 8\n")
    (run / "lease").mkdir()
    assert data(run)["target"] == 8
    assert data(run)["running"] is None
    (run / "lease" / "000001.released").touch()
    assert data(run)["running"] is False
    held = run / "lease" / "000002"
    held.touch()
    assert data(run)["running"] is True
    os.utime(held, (0, 0))  # its holder has died
    assert data(run)["running"] is False


def test_wrong_folders_are_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no run folder: it has neither config\.yaml nor"):
        main([str(tmp_path), "--no-browser"])
    (run / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:1: not JSON"):
        data(run)


def test_a_page_can_be_saved(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = run / "page.html"
    assert main([str(run), "--save", str(target)]) == 0
    assert target.read_text() == page(run)
    assert "needs no network" in capsys.readouterr().out
