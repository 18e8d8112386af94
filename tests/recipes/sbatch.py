"""The batch files that nemo-run writes for recipes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sdpo_megatron.config import TrainConfig, load

GOLDEN = Path(__file__).parent / "golden"
HARD = 'it\'s a "test" of [brackets], {braces}, $HOME and `ticks`\\'
"""A text with what a shell would read."""
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
MACHINES: dict[str, dict[str, int]] = {
    "one_machine": {},
    "two_machines": {"nodes": 2},
    "engines_apart": {"nodes": 2, "engine_nodes": 1},
}


def config(*overrides: str) -> TrainConfig:
    return load(
        [
            *("experiment=quickstart", "run.folder=/runs/mine", "model.path=/models/tiny"),
            *("task.path=/data/humaneval.jsonl", "run.data_parallel=2", *overrides),
        ]
    )


def dry_run(nemo: Any, name: str, *, python: str = "", **settings: Any) -> Path:
    """What would be handed to Slurm: the folder of the experiment."""
    run, given = nemo.run, CLUSTERS[name] | settings
    asked = given.pop("config", None) or config()
    executor = run.SlurmExecutor(account="research", packager=run.Packager(), **given)
    tasks = nemo.executors.tasks_for(asked, executor, python=python, **MACHINES[name])
    with run.Experiment(
        name.replace("_", "-"), skip_status_at_exit=True, enable_goodbye_message=False
    ) as experiment:
        nemo.launching.add(experiment, "train", tasks)
        experiment.dryrun(log=False, delete_exp_dir=False)
    return Path(experiment._exp_dir)


def batch_file(experiment: Path) -> Path:
    (found,) = experiment.glob("*_sbatch.sh")
    return found


def normalised(experiment: Path, home: Path) -> str:
    text = batch_file(experiment).read_text()
    text = text.replace(str(home), "NEMORUN_HOME").replace(sys.executable, "PYTHON")
    return re.sub(r"_\d{15,}", "_ID", text)
