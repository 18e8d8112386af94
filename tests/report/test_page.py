"""The file: whole in itself, small, and nothing of a run can become a part of its code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.report.blocks import BlockCache
from sdpo_megatron.report.command import main
from sdpo_megatron.report.page import report_page
from tests.report.runs import write_hostile_step, write_run


def page_of(*runs: Path) -> str:
    return report_page([BlockCache(run) for run in runs])


def elements(text: str) -> dict[str, str]:
    """Content of the scripts that hold data, by id."""
    return dict(re.findall(r'<script type="[^"]*" id="([^"]*)">(.*?)</script>', text, re.DOTALL))


def unpacked(data: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(data)))


def test_the_policy_names_the_very_scripts_and_style_and_allows_nothing_else(
    tmp_path: Path,
) -> None:
    text = page_of(write_run(tmp_path))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"  # the empty icon
    assert rules["require-trusted-types-for"] == "'script'"
    assert set(rules) == {
        "default-src", "img-src", "script-src", "style-src", "base-uri", "form-action",
        "require-trusted-types-for", "trusted-types",
    }  # fmt: skip

    def hashes(tag: str) -> list[str]:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digests = [hashlib.sha256(part.encode()).digest() for part in found]
        return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]

    assert rules["script-src"].split() == hashes("script")
    assert rules["style-src"].split() == hashes("style")
    assert len(hashes("script")) == 2


def test_nothing_is_loaded_and_nothing_is_left_to_fill_in(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path))
    without = re.sub(r"(?s)<(script|style)\b.*?</\1>", "", text)
    assert not re.search(r'(src|href)="(?!data:,"|#)', without)
    assert "<!--" not in without
    assert "Leon Sorokin" in text  # uPlot's licence travels with it
    assert not re.search(
        r"\.(innerHTML|outerHTML|insertAdjacentHTML)|\beval\(|document\.write", text
    )


def test_the_data_are_all_there(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", steps=2)
    found = elements(page_of(run))
    assert json.loads(found["head"])["names"] == ["r"]
    (index,) = unpacked(found["content"])["attempts"]
    columns = index["columns"]
    assert len(columns["step"]) == 16
    for row, (block, place) in enumerate(zip(columns["block"], columns["place"], strict=True)):
        attempt = unpacked(found[f"block-0-{block}"])[place]
        for name in ("question", "index", "success", "reward", "tokens", "finish"):
            assert attempt[name] == columns[name][row]


def test_no_text_of_a_run_is_outside_of_json_and_base64(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script><!--CONTENT--><!--BLOCKS--><img src=x>"
    run = write_run(tmp_path / "x <!--SCRIPT--> y", steps=1)
    write_hostile_step(run, 2, [bad])
    (run / "config.yaml").write_text(f"run:\n  name: '{bad}'\n")
    text = page_of(run)
    assert "alert(1)" not in text
    assert "<img" not in text
    found = elements(text)
    assert bad in unpacked(found["content"])["runs"][0]["config"]
    assert bad in unpacked(found["content"])["attempts"][0]["columns"]["question"]
    assert json.loads(found["head"])["names"] == ["x <!--SCRIPT--> y"]
    assert "<!--" not in found["head"]


def test_runs_side_by_side(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, steps=steps) for name, steps in (("a", 1), ("b", 2))]
    found = elements(page_of(*runs))
    content = unpacked(found["content"])
    assert [run["name"] for run in content["runs"]] == ["a", "b"]
    assert content["differences"] == [["run.steps", "1", "2"]]
    assert [len(part["columns"]["step"]) for part in content["attempts"]] == [8, 16]
    assert {"block-0-0", "block-1-0", "block-1-3"} <= found.keys()


def test_the_command_writes_it_into_the_run_or_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [write_run(tmp_path / name, steps=1) for name in "ab"]
    assert main([str(runs[0])]) == 0
    assert "report.html (0.1 MiB): open it in a browser" in capsys.readouterr().out
    assert elements((runs[0] / "report.html").read_text()).keys() >= {"head", "content"}
    monkeypatch.chdir(tmp_path)
    assert main([str(run) for run in runs]) == 0
    assert json.loads(elements(Path("comparison.html").read_text())["head"])["names"] == ["a", "b"]
    assert main([str(runs[1]), "--output", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").is_file()
    with pytest.raises(ConfigError, match="is no run folder"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="cannot be written"):
        main([str(runs[1]), "--output", str(tmp_path / "no" / "x.html")])
