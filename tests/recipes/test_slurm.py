"""What Slurm gets: the batch files, and that a configuration passes through them unharmed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdpo_megatron.config import load_saved
from sdpo_megatron.errors import ConfigError
from tests.recipes import sbatch

# Stand-ins for Slurm's programs: the part of a job that --het-group names runs here, machine by
# machine, with the variables that the real ones set. `make slurm-test` asks the real ones.
_SRUN = """\
#!/bin/bash
part=0 machines=1
for word in "$@"; do
    case "$word" in --het-group=*) part=${word#*=};; esac
done
while [ $# -gt 0 ] && [ "$1" != bash ] && [ "$1" != hostname ]; do shift; done
[ "$1" = hostname ] && { echo 10.0.0.1; exit; }
[ "$part" = 0 ] && machines=$TRAINER_MACHINES
for ((number = 0; number < machines; number++)); do
    SLURM_STEP_NUM_NODES=$machines SLURM_NODEID=$number "$@" || exit $?
done
"""
_SCONTROL = """\
#!/bin/bash
[ "$2" = hostnames ] || exit 1
case "$3" in trainers) printf "t0\\nt1\\n";; engines) printf "e0\\ne1\\n";; esac
"""


def submit(batch: Path, tmp_path: Path, *, machines: int, apart: bool = False) -> int:
    for name, text in {"srun": _SRUN, "scontrol": _SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "6001",
        "SLURM_JOB_NODELIST": "trainers",
        "TRAINER_MACHINES": str(machines),
    }
    if apart:
        environment |= {
            "SLURM_JOB_NODELIST_HET_GROUP_0": "trainers",
            "SLURM_JOB_NODELIST_HET_GROUP_1": "engines",
        }
    done = subprocess.run(["bash", str(batch)], env=environment, capture_output=True, timeout=60)
    return done.returncode


@pytest.mark.parametrize("name", sbatch.CLUSTERS)
def test_the_batch_file_is_the_golden_one(nemo: SimpleNamespace, name: str) -> None:
    found = sbatch.normalised(sbatch.dry_run(nemo, name), nemo.home)
    assert found == (sbatch.GOLDEN / f"{name}.sbatch").read_text(), (
        "after a change that is meant: python -m tests.recipes.write_golden"
    )


def test_a_configuration_passes_through_slurm_unharmed(
    nemo: SimpleNamespace, recorder: Path, tmp_path: Path
) -> None:
    from recipes.experiments import quoted

    hard = sbatch.config(
        f"task.ids=[{quoted(sbatch.HARD)},'a, b']", f"run.name={quoted(sbatch.HARD)}"
    )
    experiment = sbatch.dry_run(nemo, "two_machines", python=str(recorder), config=hard)
    assert submit(sbatch.batch_file(experiment), tmp_path, machines=2) == 0
    for number in (0, 1):
        got = tmp_path / f"got-2-{number}-sdpo_megatron.cli"
        assert load_saved(Path(f"{got}.yaml")) == hard
        words = Path(f"{got}.arguments").read_text().splitlines()
        assert words[:4] == ["-m", "sdpo_megatron.cli", "train", "--config"]
        assert words[5:] == ["t0:20002"]  # 20000 + 2 x (6001 mod 6000)


def test_the_trainer_hears_where_engines_are_that_run_apart(
    nemo: SimpleNamespace, recorder: Path, tmp_path: Path
) -> None:
    asked = sbatch.config("rollout.engine.num_engines=2")
    experiment = sbatch.dry_run(
        nemo, "engines_apart", python=str(recorder), config=asked, container_image=None
    )
    batch = sbatch.batch_file(experiment)
    batch.write_text(batch.read_text().replace("sleep 10", "sleep 0.1"))
    batch.write_text(batch.read_text().replace("module load cuda", ""))
    assert submit(batch, tmp_path, machines=2, apart=True) == 0
    words = (tmp_path / "got-2-1-sdpo_megatron.cli.arguments").read_text().splitlines()
    urls = "http://e0:30000,http://e0:30001,http://e1:30000,http://e1:30001"
    assert words[5] == f"rollout.engine.urls=[{urls}]"
    engine = (tmp_path / "got-1-0-recipes.engine_node.arguments").read_text().splitlines()
    assert engine[:2] == ["-m", "recipes.engine_node"]
    assert engine[3:7] == ["--engines", "2", "--first-port", "30000"]
    assert load_saved(tmp_path / "got-1-0-recipes.engine_node.yaml") == asked


def test_the_job_fails_when_its_program_does(
    nemo: SimpleNamespace, recorder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORDER_EXIT", "75")
    experiment = sbatch.dry_run(nemo, "one_machine", python=str(recorder))
    assert submit(sbatch.batch_file(experiment), tmp_path, machines=1) == 75


def test_a_text_that_nemo_run_would_rewrite_is_refused(nemo: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match=r"folder: /data/nemo_run/7: nemo-run would put"):
        sbatch.dry_run(nemo, "one_machine", config=sbatch.config("run.folder=/data/nemo_run/7"))


def test_what_slurm_needs_is_asked_for(nemo: SimpleNamespace) -> None:
    executor = nemo.run.SlurmExecutor(account="")
    with pytest.raises(ConfigError, match=r"run\.executor\.account: must be given"):
        nemo.executors.tasks_for(sbatch.config(), executor)


def test_an_executor_of_ones_own_is_not_changed(nemo: SimpleNamespace) -> None:
    executor = nemo.run.SlurmExecutor(account="a", srun_args=["--mpi=none"], launcher="torchrun")
    (task,) = nemo.executors.tasks_for(sbatch.config(), executor, nodes=2)
    assert task.executor.srun_args == ["--mpi=none", "--cpu-bind=none"]
    assert (task.executor.nodes, task.executor.launcher) == (2, None)
    assert (executor.nodes, executor.launcher, executor.srun_args) == (
        1,
        "torchrun",
        ["--mpi=none"],
    )
