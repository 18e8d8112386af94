"""What the page shows: the panels that a run folder can answer, and its steps."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import yaml

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.monitoring.dashboards import DASHBOARDS
from sdpo_megatron.monitoring.panel import Curve, Dashboard, Panel
from sdpo_megatron.observability.run_folder import read_reports

__all__ = ["data", "inside_script", "page", "part", "rows"]

_FOLDER = Path(__file__).parent / "page"
_SILENT_S = 60.0  # a trainer touches its lease every few seconds


def page(run: Path) -> str:
    """The whole page, steps included: it needs nothing but itself.

    Raises:
        ConfigError: `run` is no run folder.
    """
    parts = {
        "STYLE": part("uplot/uPlot.min.css") + part("page.css"),
        "PLOTS": part("uplot/uPlot.iife.min.js") + part("plots.js"),
        "SCRIPT": part("page.js"),
        "CONTENT": inside_script({"dashboards": _dashboards(), "data": data(run)}),
        "LICENCE": part("uplot/LICENSE").strip(),
    }
    text = part("page.html")
    for name, filling in parts.items():
        text = text.replace(f"<!--{name}-->", filling)
    return text


def data(run: Path) -> dict[str, Any]:
    """The run's name, how many steps it is to have (null: not known), whether a trainer writes it
    (null: not known), and each metric of its steps: a list with null where there is no value.

    Raises:
        ConfigError: `run` is no run folder, or its metrics.jsonl cannot be read.
    """
    if not (run / "config.yaml").is_file() and not (run / "metrics.jsonl").is_file():
        raise ConfigError(f"{run} is no run folder: it has neither config.yaml nor metrics.jsonl")
    try:
        reports = read_reports(run / "metrics.jsonl")
    except (ValueError, KeyError) as error:
        raise ConfigError(str(error)) from error
    keys = sorted(_keys())
    values = {key: [_known(r.metrics.get(key, math.nan)) for r in reports] for key in keys}
    return {
        "run": run.resolve().name,
        "target": _target(run / "config.yaml"),
        "running": _running(run / "lease"),
        "steps": [report.step for report in reports],
        "values": {
            key: found for key, found in values.items() if any(v is not None for v in found)
        },
    }


def _target(config: Path) -> int | None:
    try:
        steps = yaml.safe_load(config.read_text(encoding="utf-8"))["run"]["steps"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None


def _running(lease: Path) -> bool | None:
    """By the lease of its writer: the entry with the highest number, which is given back at an end
    and is not touched any more after a death."""
    try:
        newest = max(lease.iterdir(), key=lambda path: path.name.partition(".")[0])
        age_s = time.time() - newest.stat().st_mtime
    except (OSError, ValueError):
        return None
    return newest.suffix != ".released" and age_s < _SILENT_S


def _dashboards() -> list[dict[str, Any]]:
    """The panels of which metrics.jsonl has a curve, in their rows."""
    return [
        {"title": dashboard.title.removeprefix("SDPO / "), "rows": rows(dashboard)}
        for dashboard in DASHBOARDS
    ]


def rows(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Its rows as plain data, without panels that metrics.jsonl has no curve of."""
    found = [(row.title, [_plain(p) for p in row.panels if _of_steps(p)]) for row in dashboard.rows]
    return [{"title": title, "panels": panels} for title, panels in found if panels]


def _of_steps(panel: Panel) -> list[Curve]:
    return [curve for curve in panel.curves if curve.key]


def _plain(panel: Panel) -> dict[str, Any]:
    curves = [{"key": curve.key, "legend": curve.legend} for curve in _of_steps(panel)]
    return {
        "title": panel.title, "help": panel.help, "unit": panel.unit, "stacked": panel.stacked,
        "logarithmic": panel.logarithmic, "bounds": panel.bounds, "curves": curves,
    }  # fmt: skip


def _keys() -> set[str]:
    return {c.key for page in DASHBOARDS for panel in page.panels for c in _of_steps(panel)}


def _known(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def part(name: str) -> str:
    """The text of a file of the page: `sdpo report` has some of them too."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def inside_script(value: Any) -> str:
    """JSON that ends no script element, whatever a run is called."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
