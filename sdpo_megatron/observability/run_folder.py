"""A run is a folder: resolved config, versions, metrics, rollouts, checkpoints, weights and logs.

config.yaml     the resolved config
versions.json   packages, git commit and platform, one record for each start of the run
metrics.jsonl   one JSON object a step; a value that a step did not measure is null
report.html     the page of the run
rollouts/       attempts of each step; groups/ of samples and plans until a checkpoint covers them
token_scores/  checkpoints/  weights/  logs/
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sdpo_megatron.files import clear_drafts, write_whole
from sdpo_megatron.nouns import StepReport

__all__ = ["RunFolder", "read_reports", "versions"]

_PACKAGES = (
    "sdpo-megatron", "torch", "megatron-core", "sglang", "transformers", "tokenizers", "numpy",
    "safetensors", "hydra-core", "transformer-engine",
)  # fmt: skip

_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


class RunFolder:
    """Names and writes the files of one run. Only rank 0 makes one; a resumed run opens the same.

    Args:
        path: The folder; made with its sub-folders when absent.
        may_write: Called before every write; raises once the folder belongs to another trainer.
    """

    def __init__(
        self, path: str | os.PathLike[str], may_write: Callable[[], None] = lambda: None
    ) -> None:
        self.path, self.may_write = Path(path), may_write
        self.rollouts = self.path / "rollouts"
        self.groups = self.rollouts / "groups"
        self.token_scores = self.path / "token_scores"
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights"
        self.logs = self.path / "logs"
        self.config_file = self.path / "config.yaml"
        self.versions_file = self.path / "versions.json"
        self.metrics_file = self.path / "metrics.jsonl"
        for folder in (self.rollouts, self.checkpoints, self.weights, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.rollouts, self.token_scores):
            clear_drafts(folder)  # of a run that was killed

    def save_versions(self) -> None:
        """Adds one record of `versions` to versions.json."""
        self.may_write()
        records = json.loads(self.versions_file.read_text()) if self.versions_file.exists() else []
        write_whole(self.versions_file, json.dumps([*records, versions()], indent=2) + "\n")

    def append(self, report: StepReport) -> None:
        """Adds a step to metrics.jsonl and waits until it is on the disk.

        The line is one write, so a kill leaves it whole or torn at the end, where `reports` and
        `resume_at` find it. So does a full disk, which raises OSError.
        """
        self.may_write()
        values = {key: v if math.isfinite(v) else None for key, v in report.metrics.items()}
        record = {"step": report.step, "policy_version": report.policy_version, **values}
        with self.metrics_file.open("ab", buffering=0) as file:
            line = json.dumps(record).encode() + b"\n"
            while line:  # a nearly full disk takes a part; the rest then raises
                line = line[file.write(line) :]
            os.fsync(file.fileno())

    def reports(self) -> list[StepReport]:
        """Every whole line of metrics.jsonl; a last line that a kill has torn is left out."""
        return read_reports(self.metrics_file)

    def resume_at(self, step: int) -> int:
        """Drops the lines of `step` and later, and a torn last one: the run will write them anew.

        Args:
            step: The first step that will run now.

        Returns:
            How many whole lines were dropped.
        """
        self.may_write()
        records = list(_records(self.metrics_file))
        kept = [line for record, line in records if record["step"] < step]
        if self.metrics_file.exists():
            write_whole(self.metrics_file, "".join(line + "\n" for line in kept))
        return len(records) - len(kept)


def read_reports(metrics_file: Path) -> list[StepReport]:
    """The steps in a metrics.jsonl, which a run may be writing; a torn last line is left out.

    Raises:
        ValueError: A line is not JSON.
    """
    return [_report(record) for record, _ in _records(metrics_file)]


def _records(metrics_file: Path) -> Iterator[tuple[dict[str, Any], str]]:
    if not metrics_file.exists():
        return
    lines = metrics_file.read_text().split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last "\n" is torn
        try:
            yield json.loads(line), line
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{metrics_file}:{number}: not JSON ({error}); the file was changed by "
                "something else. Delete that line to go on."
            ) from error


def versions() -> dict[str, Any]:
    """What runs here: time, packages, git commit of the checkout, Python, platform, processor.

    Bfloat16 products on a CPU are rounded as its instructions do it, so runs with one seed differ
    between processors of different `cpu_flags`.
    """
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "packages": {name: _installed(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        **_cpu(),
    }


def _cpu() -> dict[str, Any]:
    """Name of the processor and which of the instructions that products are made of it has."""
    try:
        described = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in described.splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    flags = facts.get("flags", "").split()
    return {
        "cpu_name": facts.get("model name"),
        "cpu_flags": [flag for flag in _CPU_FLAGS if flag in flags],
    }


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout that this file lies in, "+" at its end when files are changed.

    An image holds no checkout: its build names the commit in SDPO_GIT_COMMIT.
    """
    if named := os.environ.get("SDPO_GIT_COMMIT"):
        return named
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # no git, or installed without a checkout
        return None
    return described.stdout.strip() or None


def _report(record: dict[str, Any]) -> StepReport:
    step, version = record.pop("step"), record.pop("policy_version")
    values = {key: math.nan if v is None else float(v) for key, v in record.items()}
    return StepReport(step=step, policy_version=version, metrics=values)
