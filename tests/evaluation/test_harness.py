"""What lm-evaluation-harness is told, and what is said when it fails. The harness itself is a small
program here that stands in its place: its data sets need a network.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.evaluation.harness import check_harness, harness_command, run_harness


@pytest.fixture
def lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command lm_eval that does what the file says."""
    program = tmp_path / "bin" / "lm_eval"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def script(program: Path, text: str) -> None:
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def command(tmp_path: Path) -> list[str]:
    return harness_command(
        "http://127.0.0.1:30000", "tiny", ["ifeval", "mmlu_pro"], tmp_path / "out", 8, "--limit 5"
    )


def test_the_command_asks_the_engines_chat_endpoint(tmp_path: Path) -> None:
    told = command(tmp_path)
    assert told[:3] == ["lm_eval", "--model", "local-chat-completions"]
    assert "base_url=http://127.0.0.1:30000/v1/chat/completions" in told[4].split(",")
    assert told[told.index("--tasks") + 1] == "ifeval,mmlu_pro"
    assert told[-2:] == ["--limit", "5"]


def test_it_is_printed_and_its_output_kept(tmp_path: Path, lm_eval: Path) -> None:
    script(lm_eval, 'echo "$@"')
    said: list[str] = []
    check_harness()
    run_harness(command(tmp_path), tmp_path / "log", said.append)
    assert said[0].startswith("running lm_eval --model local-chat-completions --model_args model=")
    assert "--tasks ifeval,mmlu_pro" in (tmp_path / "log").read_text()


def test_data_sets_that_cannot_be_fetched_are_told_of(tmp_path: Path, lm_eval: Path) -> None:
    script(lm_eval, "echo 'ConnectionError: Couldn'\"'\"'t reach the Hub'; exit 1")
    with pytest.raises(ConfigError, match=r"(?s)could not fetch its data sets.*HF_HOME.*reach the"):
        run_harness(command(tmp_path), tmp_path / "log", lambda _text: None)


def test_another_failure_shows_the_end_of_its_output(tmp_path: Path, lm_eval: Path) -> None:
    script(lm_eval, "echo 'no task named ifevall'; exit 3")
    with pytest.raises(ConfigError, match=r"(?s)^lm_eval ended with 3\. The end of .*ifevall"):
        run_harness(command(tmp_path), tmp_path / "log", lambda _text: None)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"pip install 'sdpo-megatron\[harness\]'"):
        check_harness()
