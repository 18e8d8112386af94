"""The runs of a comparison, one after the other, each in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sdpo_megatron.comparing.comparison import Comparison, Run
from sdpo_megatron.exit_codes import DONE
from sdpo_megatron.observability.run_folder import read_reports, versions

_LARGE = ("checkpoints", "weights")


def run_all(
    comparison: Comparison, say: Callable[[str], None], *, keep_checkpoints: bool = False
) -> int:
    """Make what is missing; go on with what was stopped.

    Returns the exit code of the first run that does not end with all steps done, else 0.
    """
    runs = comparison.runs
    for number, run in enumerate(runs, start=1):
        if comparison.results(run) is not None:
            continue
        say(f"run {number} of {len(runs)}: {run.name}")
        code = subprocess.run([*_COMMAND, *_arguments(comparison, run)]).returncode
        if code != DONE:
            say(f"{run.name} ended with {code}; the same command goes on from there")
            return code
        folder = comparison.run_folder(run)
        reports = [{"step": r.step, **r.metrics} for r in read_reports(folder / "metrics.jsonl")]
        comparison.keep(run, reports, {"made_with": versions()})
        if not keep_checkpoints:
            for name in _LARGE:
                shutil.rmtree(folder / name, ignore_errors=True)
    return DONE


_COMMAND = (sys.executable, "-m", "sdpo_megatron.cli", "train")


def _arguments(comparison: Comparison, run: Run) -> list[str]:
    folder: Path = comparison.run_folder(run)
    if (folder / "config.yaml").is_file():
        return ["--resume", str(folder)]
    return comparison.arguments(run)
