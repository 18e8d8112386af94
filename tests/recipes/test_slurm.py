"""What Slurm gets: the batch files, and that a configuration passes through them unharmed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes.experiments import quoted
from recipes.scripts import train_script
from sdpo_megatron.config import load_saved
from sdpo_megatron.errors import ConfigError
from tests.recipes import sbatch

# Stand-ins for Slurm's programs: the part of a job that --het-group names runs here, machine by
# machine, with the variables that the real ones set. `make slurm-test` asks the real ones.
_SRUN = """\
#!/bin/bash
part=0 machines=2
for word in "$@"; do
    case "$word" in --het-group=*) part=${word#*=};; esac
done
while [ $# -gt 0 ] && [ "$1" != bash ] && [ "$1" != hostname ]; do shift; done
[ "$1" = hostname ] && { echo 10.0.0.1; exit; }
[ "$part" = 1 ] && machines=1
for ((number = 0; number < machines; number++)); do
    SLURM_STEP_NUM_NODES=$machines SLURM_NODEID=$number "$@" || exit $?
done
"""
_SCONTROL = """\
#!/bin/bash
[ "$2" = hostnames ] || exit 1
case "$3" in trainers) printf "t0\\nt1\\n";; engines) printf "e0\\ne1\\n";; esac
"""


HARD = 'it\'s a "test" of [brackets], {braces}, $HOME and `ticks`\\'
"""A text with what a shell would read."""
OVERRIDES = [f"task.ids=[{quoted(HARD)},'a, b']", f"run.name={quoted(HARD)}"]
OVERRIDES += ["rollout.engine.num_engines=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nemorun")


@pytest.fixture(scope="module")
def experiments(home: Path, recorder: Path) -> dict[str, Path]:
    """Those of the golden files; and "plain" and "apart", whose jobs run here."""
    job = {"python": str(recorder), "overrides": OVERRIDES}
    bare = {"container_image": None, "setup_lines": None}
    cases = [{"name": name} for name in sbatch.CLUSTERS]
    cases += [{"name": "two_machines", **job}, {"name": "engines_apart", **job, "settings": bare}]
    return dict(
        zip([*sbatch.CLUSTERS, "plain", "apart"], sbatch.dry_runs(home, cases), strict=True)
    )


def submit(experiment: Path, folder: Path, *, code: int = 0) -> int:
    """Run the batch file as Slurm would; the exit code. Its program ends with `code`."""
    for name, text in {"srun": _SRUN, "scontrol": _SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "RECORDER_FOLDER": str(folder),
        "RECORDER_EXIT": str(code),
        "SLURM_JOB_ID": "6001",
        "SLURM_JOB_NODELIST": "trainers",
        "SLURM_JOB_NODELIST_HET_GROUP_1": "engines",
        "SLURM_RESTART_COUNT": "9",
    }
    batch = folder / "batch.sh"
    batch.write_text(sbatch.batch_file(experiment).read_text().replace("sleep 10", "sleep 0.1"))
    done = subprocess.run(["bash", str(batch)], env=environment, capture_output=True, timeout=60)
    return done.returncode


@pytest.mark.parametrize("name", sbatch.CLUSTERS)
def test_the_batch_file_is_the_golden_one(
    experiments: dict[str, Path], home: Path, name: str
) -> None:
    golden = (sbatch.GOLDEN / f"{name}.sbatch").read_text()
    assert sbatch.normalised(experiments[name], home) == golden, (
        "after a change that is meant: python -m tests.recipes.sbatch"
    )


def test_a_configuration_passes_through_slurm_unharmed(
    experiments: dict[str, Path], tmp_path: Path
) -> None:
    assert submit(experiments["plain"], tmp_path) == 0
    for number in (0, 1):
        got = tmp_path / f"got-2-{number}-sdpo_megatron.cli"
        config = load_saved(Path(f"{got}.yaml"))
        assert config == sbatch.composed(*OVERRIDES)
        assert (config.task.ids, config.run.name) == ((HARD, "a, b"), HARD)
        words = Path(f"{got}.arguments").read_text().splitlines()
        assert words[:4] == ["-m", "sdpo_megatron.cli", "train", "--config"]
        assert words[5:] == ["t0:20002"]  # 20000 + 2 x (6001 mod 6000)


def test_the_trainer_hears_where_engines_are_that_run_apart(
    experiments: dict[str, Path], tmp_path: Path
) -> None:
    assert submit(experiments["apart"], tmp_path) == 0
    words = (tmp_path / "got-2-1-sdpo_megatron.cli.arguments").read_text().splitlines()
    urls = "http://e0:30000,http://e0:30001,http://e1:30000,http://e1:30001"
    assert words[5] == f"rollout.engine.urls=[{urls}]"
    engine = (tmp_path / "got-1-0-recipes.engine_node.arguments").read_text().splitlines()
    assert engine[:2] == ["-m", "recipes.engine_node"]
    assert engine[3:7] == ["--engines", "2", "--first-port", "30000"]
    config = load_saved(tmp_path / "got-1-0-recipes.engine_node.yaml")
    assert config == sbatch.composed(*OVERRIDES)


@pytest.mark.parametrize("name", ["plain", "apart"])
def test_the_job_ends_as_its_program_does(
    experiments: dict[str, Path], tmp_path: Path, name: str
) -> None:
    assert submit(experiments[name], tmp_path, code=75) == 75


def test_a_text_that_nemo_run_would_rewrite_is_refused() -> None:
    config = sbatch.composed("run.folder=/data/nemo_run/7")
    with pytest.raises(ConfigError, match=r"folder: /data/nemo_run/7: nemo-run would put"):
        train_script(config, "python", on_slurm=True)
    assert "folder: /data/nemo_run/7\n" in train_script(config, "python")


def test_what_slurm_needs_is_asked_for(nemo: SimpleNamespace) -> None:
    executor = nemo.run.SlurmExecutor(account="")
    with pytest.raises(ConfigError, match=r"run\.executor\.account: must be given"):
        nemo.executors.tasks_for(sbatch.composed(), executor)


def test_an_executor_of_ones_own_is_not_changed(nemo: SimpleNamespace) -> None:
    executor = nemo.run.SlurmExecutor(account="a", srun_args=["--mpi=none"], launcher="torchrun")
    (task,) = nemo.executors.tasks_for(sbatch.composed(), executor, nodes=2)
    assert task.executor.srun_args == ["--mpi=none", "--cpu-bind=none"]
    assert (task.executor.nodes, task.executor.launcher) == (2, None)
    assert (executor.nodes, executor.launcher, executor.srun_args) == (
        1,
        "torchrun",
        ["--mpi=none"],
    )


def test_one_machine_cannot_be_several(nemo: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="nodes=2, engine_nodes=1: the local executor is one"):
        nemo.executors.tasks_for(
            sbatch.composed(), nemo.run.LocalExecutor(), nodes=2, engine_nodes=1
        )


def test_names_of_jobs_hold_nothing_that_a_shell_reads(nemo: SimpleNamespace) -> None:
    assert nemo.launching.job_name(HARD) == "it-s-a-test-of-brackets-braces-HOME-and-ticks"
    assert nemo.launching.job_name("$") == "run"
