"""A user's mistakes end at once, with a message that says what to do and a non-zero exit code."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sdpo_megatron.exit_codes import FAILED, USER_ERROR
from tests.loops import runs

pytestmark = pytest.mark.timeout(300)


def complaint(arguments: list[str], *, code: int = USER_ERROR) -> str:
    """Standard error of a run that must fail with `code`."""
    result = subprocess.run(
        [sys.executable, "-m", "sdpo_megatron.cli", "train", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == code, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    return result.stderr


def test_an_unknown_key_names_the_nearest(tiny_llama: Path, tmp_path: Path) -> None:
    said = complaint(["experiment=quickstart", "teacher.rat=0.1"])
    assert "teacher.rat: there is no such setting; did you mean teacher.rate?" in said


def test_a_layout_that_does_not_fit(tiny_llama: Path, tmp_path: Path) -> None:
    said = complaint(runs.overrides(tiny_llama, tmp_path / "run", "parallel.tensor=3"))
    assert "parallel.tensor=3 does not divide num_attention_heads 4" in said
    assert "possible here: 1, 2" in said


def test_a_missing_model_folder(tmp_path: Path) -> None:
    said = complaint(runs.overrides(tmp_path / "nowhere", tmp_path / "run"))
    assert str(tmp_path / "nowhere") in said
    assert "Hugging Face" in said


def test_a_mistyped_folder_is_not_filled_with_the_quickstarts_model(tmp_path: Path) -> None:
    missing = tmp_path / "Qwen3-8B"
    said = complaint(["experiment=quickstart", f"model.path={missing}"])
    assert f"model.path={missing} holds no config.json" in said
    assert not missing.exists()


def test_a_corrupt_safetensors_file(tiny_llama: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    said = complaint(runs.overrides(broken, tmp_path / "run"))
    assert "model.safetensors is corrupt or cut short" in said
    assert "fetch the model again" in said


def test_a_malformed_task_file_is_named_with_its_line(tiny_llama: Path, tmp_path: Path) -> None:
    task = tmp_path / "task.jsonl"
    task.write_text('{"question": "1 + 1?", "answer": "#### 2"}\n{"question": "1 + 2?"\n')
    said = complaint(runs.overrides(tiny_llama, tmp_path / "run", f"task.path={task}"))
    assert f"{task}:2" in said


def test_a_run_folder_of_other_settings(tiny_llama: Path, tmp_path: Path) -> None:
    from sdpo_megatron import config

    folder = tmp_path / "run"
    folder.mkdir()
    config.save(config.load(runs.overrides(tiny_llama, folder)), folder / "config.yaml")
    said = complaint(runs.overrides(tiny_llama, folder, "optimizer.lr=5e-4"))
    assert "optimizer.lr: 0.001 -> 0.0005" in said
    assert f"sdpo train --resume {folder}" in said


def test_a_rendered_config_is_prepared_as_it_stands(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sdpo_megatron import config
    from sdpo_megatron.cli import main

    assert main(["config", *runs.overrides(tiny_llama, tmp_path / "elsewhere")]) == 0
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(capsys.readouterr().out)
    folder = tmp_path / "run"
    arguments = ["--config", str(rendered), f"run.folder={folder}", "run.steps=9"]
    assert main(["prepare", *arguments]) == 0
    assert f"torchrun ... -m sdpo_megatron.loops.rank {folder}" in capsys.readouterr().out
    saved = config.load_saved(folder / "config.yaml")
    assert (saved.run.steps, saved.model.path) == (9, str(tiny_llama))
    assert (folder / "lease" / "000001.released").exists()


def test_a_config_file_that_is_not_there(tmp_path: Path) -> None:
    said = complaint(["--config", str(tmp_path / "config.yaml")])
    assert f"--config {tmp_path / 'config.yaml'}: there is no such file" in said


@pytest.mark.slow
def test_the_engines_port_is_in_use(tiny_llama: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = complaint(
            runs.overrides(tiny_llama, tmp_path / "run", f"rollout.engine.port={port}"),
            code=FAILED,
        )
    assert f"port {port}" in said
    assert "rollout.engine.port" in said


@pytest.mark.slow
def test_an_engine_that_dies_at_start_shows_its_log(tiny_llama: Path, tmp_path: Path) -> None:
    said = complaint(
        runs.overrides(
            tiny_llama, tmp_path / "run", "rollout.engine.extra_args=[--no-such-flag-of-sglang]"
        ),
        code=FAILED,
    )
    assert "while starting" in said
    assert "--no-such-flag-of-sglang" in said
