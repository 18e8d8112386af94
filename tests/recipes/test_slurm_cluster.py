"""Slurm's own sbatch, controller and daemons, on loopback: recipes train on several machines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loops.runs import overrides as tiny_run
from tests.recipes.slurm_cluster import Cluster, cluster, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
_LIMIT_S = 280.0


@pytest.fixture(scope="module")
def three_machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm"), 3) as running:
        yield running


def submit(
    slurm: Cluster, tmp_path: Path, overrides: list[str], **machines: int
) -> tuple[str, Path]:
    """Hand a run over through nemo-run; the job's number, and the folder of its logs."""
    program = (
        "import sys, nemo_run as run\n"
        "from recipes.experiments import quickstart\n"
        "from recipes.launching import launch\n"
        "executor = run.SlurmExecutor(account='me', time='01:00:00', packager=run.Packager(),"
        " poll_estimated_start_time=False)\n"
        f"config = quickstart({overrides!r})\n"
        f"sys.exit(launch(config, executor, detach=True, **{machines!r}))\n"
    )
    home = tmp_path / "home"
    environment = {**slurm.environment, "NEMORUN_HOME": str(home), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    job = (home / ".slurm_jobs").read_text().split(" = ")[0]
    (logs,) = (home / "experiments" / "quickstart").glob("*/quickstart")
    return job, logs


def said(logs: Path) -> str:
    return "\n".join(f"{log.name}:\n{log.read_text()}" for log in sorted(logs.glob("*.out")))


def trained(folder: Path) -> None:
    (step,) = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(step)["policy_version"] == 1


def test_the_two_machine_recipe_trains(
    three_machines: Cluster, tmp_path: Path, tiny_llama: Path
) -> None:
    mine = [*tiny_run(tiny_llama, tmp_path / "mine"), "run.steps=1", "task.ids=[]"]
    job, logs = submit(three_machines, tmp_path, mine, nodes=2)
    assert three_machines.wait(job, _LIMIT_S) == ("COMPLETED", "0:0"), said(logs)
    trained(tmp_path / "mine")
    assert "node 1 of 2: waiting for node 0 at 127.0.0.2" in said(logs)
    assert "\x1b" not in said(logs)  # no live display in a log
    ranks = sorted(log.name for log in (tmp_path / "mine" / "logs").glob("rank-*.log"))
    assert ranks == ["rank-0.log", "rank-1.log"]


def test_engines_apart_are_a_part_of_the_same_job(
    three_machines: Cluster, tmp_path: Path, tiny_llama: Path
) -> None:
    mine = [*tiny_run(tiny_llama, tmp_path / "mine"), "run.steps=1", "task.ids=[]"]
    job, logs = submit(three_machines, tmp_path, mine, nodes=2, engine_nodes=1)
    assert three_machines.wait(job, _LIMIT_S) == ("COMPLETED", "0:0"), said(logs)
    trained(tmp_path / "mine")
    assert "http://127.0.0.1:30000 is ready" in said(logs)


def test_a_user_error_fails_the_job(three_machines: Cluster, tmp_path: Path) -> None:
    absent = [*tiny_run(Path("/absent"), tmp_path / "mine"), "task.ids=[]"]
    job, logs = submit(three_machines, tmp_path, absent, nodes=1)
    assert three_machines.wait(job, _LIMIT_S) == ("FAILED", "2:0"), said(logs)
    assert "model folder /absent does not exist" in said(logs)
