"""The local executor, through nemo-run in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.experiments import quoted
from sdpo_megatron.config import load_saved
from tests.loops.runs import overrides as tiny_run
from tests.recipes import sbatch
from tests.recipes.test_slurm import HARD, OVERRIDES

NEMORUN = str(Path(sys.executable).with_name("nemorun"))


def nemorun(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NEMORUN_HOME": str(tmp_path / "home"), "COLUMNS": "400"}
    environment["PYTHONPATH"] = os.getcwd()  # where the tests' own verifier is
    return subprocess.run(
        [NEMORUN, "sdpo", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_a_configuration_passes_through_the_local_executor_unharmed(
    recorder: Path, tmp_path: Path
) -> None:
    program = (
        "import os, nemo_run as run\n"
        "from recipes.launching import launch\n"
        "from tests.recipes.sbatch import composed\n"
        f"config = composed(*{OVERRIDES!r})\n"
        "for code in ('0', '75'):\n"
        "    os.environ['RECORDER_EXIT'] = code\n"
        f"    ended = launch(config, run.LocalExecutor(), python={str(recorder)!r})\n"
        "    print('ended with', ended, flush=True)\n"
    )
    environment = {"NEMORUN_HOME": str(tmp_path / "home"), "RECORDER_FOLDER": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    ended = [line for line in done.stdout.splitlines() if line.startswith("ended with")]
    assert ended == ["ended with 0", "ended with 1"], done.stdout + done.stderr
    got = tmp_path / "got-1-0-sdpo_megatron.cli"
    assert load_saved(Path(f"{got}.yaml")) == sbatch.composed(*OVERRIDES)
    words = Path(f"{got}.arguments").read_text().splitlines()
    assert words[:4] == ["-m", "sdpo_megatron.cli", "train", "--config"]
    assert words[5:] == [":"]


def test_a_mistake_on_the_command_line_is_a_users_error(tmp_path: Path) -> None:
    overrides = json.dumps([f"run.name={quoted(HARD)}", "run.stepz=1", "optimizer.beta1=7"])
    done = nemorun(tmp_path, "quickstart", "--yes", f"overrides={overrides}")
    assert done.returncode == 2, done.stdout
    assert done.stderr.splitlines()[-2:] == [
        "sdpo: run.stepz: there is no such setting; did you mean run.steps?",
        "sdpo: optimizer.beta1=7: must be below 1",
    ]


_LOCAL = ("quickstart", "--yes", "run.executor=local")


@pytest.mark.slow
def test_a_recipe_trains_with_the_local_executor(tmp_path: Path, tiny_llama: Path) -> None:
    mine = [*tiny_run(tiny_llama, tmp_path / "mine"), "parallel=single", "run.steps=1"]
    done = nemorun(tmp_path, *_LOCAL, f"overrides={json.dumps([*mine, 'task.ids=[]'])}")
    assert done.returncode == 0, done.stdout + done.stderr
    (step,) = (tmp_path / "mine" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(step)["policy_version"] == 1


@pytest.mark.slow
def test_a_recipe_that_fails_ends_nemorun_with_a_failure(tmp_path: Path) -> None:
    absent = [*tiny_run(Path("/absent"), tmp_path / "mine"), "task.ids=[]"]
    failed = nemorun(tmp_path, *_LOCAL, f"overrides={json.dumps(absent)}")
    assert failed.returncode == 1
    assert "model folder /absent does not exist" in failed.stdout + failed.stderr
