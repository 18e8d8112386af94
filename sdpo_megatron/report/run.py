"""What the page says of a run besides its attempts, as plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.monitoring.local.content import data
from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.metrics import BY_KEY
from sdpo_megatron.observability.run_folder import read_reports
from sdpo_megatron.report.health import findings

__all__ = ["described", "differences"]

_PHASES = ("rollout", "teacher", "student", "optimizer", "publish", "validation", "checkpoint")
_VALIDATION = (
    "success_rate", "best_of_n", "reward_mean", "response_tokens_mean", "truncated_fraction",
    "format_ok_fraction", "attempts", "dropped_attempts",
)  # fmt: skip


def described(run: Path) -> dict[str, Any]:
    """Name, numbers, health, times, settings and versions of the run in a folder.

    Raises:
        ConfigError: It is no run folder, or a file of it cannot be read.
    """
    numbers = data(run)
    reports = read_reports(run / "metrics.jsonl")
    text, settings = _config(run)
    return {
        "name": numbers["run"],
        "folder": str(run.resolve()),
        "model": settings.get("model.path", "").rstrip("/").rpartition("/")[2],
        "task": settings.get("task.name", ""),
        "steps": numbers["steps"],
        "target": settings.get("run.steps", "null"),
        "values": numbers["values"],
        "health": [asdict(finding) for finding in findings(reports)],
        "phases": _phases(reports),
        "validation": _validation(run),
        "summary": _summary(reports),
        "config": text,
        "settings": settings,
        "versions": _versions(run),
    }


def differences(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """[key, value of each run, ...] of the settings in which the runs differ, the folder aside."""
    keys = dict.fromkeys(key for run in runs for key in run["settings"])
    rows = [[key, *(run["settings"].get(key, "–") for run in runs)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1 and row[0] != "run.folder"]


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if value in (True, False) else str(value)


def _config(run: Path) -> tuple[str, dict[str, str]]:
    """The resolved configuration as it is, and its values by key, as words."""
    path = run / "config.yaml"
    if not path.is_file():
        return "", {}
    text = path.read_text(encoding="utf-8")
    try:
        return text, {key: _word(v) for key, v in _flat("", yaml.safe_load(text) or {})}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from None


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, part in value.items() for pair in _flat(f"{prefix}{key}.", part)]
    return [(prefix.removesuffix("."), value)]


def _phases(reports: Sequence[StepReport]) -> list[dict[str, Any]]:
    """Mean seconds of each part of a step, those of the last one, and the share of all steps."""
    if not reports:
        return []
    whole = [report.metrics.get("time/step_s", math.nan) for report in reports]
    columns = {
        name: [_number(report.metrics.get(f"time/{name}_s")) for report in reports]
        for name in _PHASES
    }
    columns["other"] = [
        max(0.0, _number(all_) - sum(values))
        for all_, values in zip(whole, zip(*columns.values(), strict=True), strict=True)
    ]
    total = sum(map(sum, columns.values()))
    return [
        {
            "name": name,
            "help": BY_KEY[f"time/{name}_s"].help if name != "other" else "What is in no phase",
            "mean": mean(values),
            "last": values[-1],
            "share": sum(values) / total if total else 0.0,
        }
        for name, values in columns.items()
        if any(values)
    ]


def _number(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0


def _validation(run: Path) -> list[dict[str, Any]]:
    """The passes of validation.jsonl; a line that a kill has torn is left out."""
    path = run / "validation.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            found = json.loads(line)
            values = {name: found.get(f"validation/{name}") for name in _VALIDATION}
            rows.append({"step": found["step"], **values})
    return rows


def _summary(reports: Sequence[StepReport]) -> list[dict[str, Any]]:
    """What two runs are compared by: the beginning, and the mean of the last quarter of steps."""
    rows = []
    for key in (
        "rollout/success_rate", "rollout/reward_mean", "train/loss", "teacher/kl_mean",
        "student/entropy", "rollout/response_tokens_mean", "train/grad_norm", "time/step_s",
    ):  # fmt: skip
        values = [v for r in reports if math.isfinite(v := r.metrics.get(key, math.nan))]
        if values:
            late = mean(values[-max(1, len(values) // 4) :])
            row = {"key": key, "help": BY_KEY[key].help, "unit": BY_KEY[key].unit}
            rows.append(row | {"first": values[0], "late": late})
    return rows


def _versions(run: Path) -> list[dict[str, Any]]:
    """One record for each start of the run; [] where they cannot be read."""
    try:
        found = json.loads((run / "versions.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else []
