"""The batch files that nemo-run writes for recipes, made in a process of their own.

python -m tests.recipes.sbatch    # writes golden/*.sbatch anew, after a change that is meant
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sdpo_megatron.config import TrainConfig, load

GOLDEN = Path(__file__).parent / "golden"
CLUSTERS: dict[str, dict[str, Any]] = {
    "one_machine": {"gpus_per_node": 8},
    "two_machines": {"partition": "gpu", "retries": 3},
    "engines_apart": {
        "gpus_per_node": 8,
        "container_image": "registry.example/sdpo:1",
        "container_mounts": ["/models:/models", "/runs:/runs"],
        "setup_lines": "module load cuda",
    },
}
_MACHINES: dict[str, dict[str, int]] = {
    "one_machine": {},
    "two_machines": {"nodes": 2},
    "engines_apart": {"nodes": 2, "engine_nodes": 1},
}
_BASE = (
    *("experiment=quickstart", "run.folder=/runs/mine", "model.path=/models/tiny"),
    *("task.path=/data/humaneval.jsonl", "run.data_parallel=2"),
)


def composed(*overrides: str) -> TrainConfig:
    return load([*_BASE, *overrides])


def dry_runs(home: Path, cases: list[dict[str, Any]]) -> list[Path]:
    """What would be handed to Slurm, an experiment's folder for each case.

    Args:
        cases: `name` of CLUSTERS; and `python`, `overrides`, `settings` of the executor.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.recipes.sbatch", json.dumps(cases)],
        env=os.environ | {"NEMORUN_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [Path(line) for line in done.stdout.splitlines()[-len(cases) :]]


def batch_file(experiment: Path) -> Path:
    (found,) = experiment.glob("*_sbatch.sh")
    return found


def normalised(experiment: Path, home: Path) -> str:
    text = batch_file(experiment).read_text()
    return re.sub(r"_\d{15,}", "_ID", text.replace(str(home), "NEMORUN_HOME"))


def _dry_run(
    name: str,
    python: str = "",
    overrides: tuple[str, ...] = (),
    settings: dict[str, Any] | None = None,
) -> str:
    import nemo_run as run

    from recipes.executors import tasks_for
    from recipes.launching import add

    given = CLUSTERS[name] | (settings or {})
    executor = run.SlurmExecutor(account="research", packager=run.Packager(), **given)
    tasks = tasks_for(composed(*overrides), executor, python=python, **_MACHINES[name])
    with run.Experiment(
        name.replace("_", "-"), skip_status_at_exit=True, enable_goodbye_message=False
    ) as experiment:
        add(experiment, "train", tasks)
        experiment.dryrun(log=False, delete_exp_dir=False)
    return str(experiment._exp_dir)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        folders = [_dry_run(**case) for case in json.loads(sys.argv[1])]
        print("\n".join(folders))
    else:
        with tempfile.TemporaryDirectory() as home:
            wanted = [{"name": name} for name in CLUSTERS]
            for case, folder in zip(wanted, dry_runs(Path(home), wanted), strict=True):
                text = normalised(folder, Path(home))
                (GOLDEN / f"{case['name']}.sbatch").write_text(text)
