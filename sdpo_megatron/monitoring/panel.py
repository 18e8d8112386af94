"""What a dashboard is made of, for Grafana and for `sdpo dashboard` alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sdpo_megatron.monitoring.promql import THIS_RUN, of_step
from sdpo_megatron.observability.metrics import BY_KEY

__all__ = ["Curve", "Dashboard", "Panel", "Row", "step"]

Kind = Literal["timeseries", "stat", "heatmap", "state-timeline", "table"]
Unit = Literal[
    "ratio", "s", "bytes", "tokens", "tokens/s", "nats/token", "FLOP/s", "items", "items/s",
    "version", "reward", "timestamp", "1",
]  # fmt: skip
Colour = Literal["green", "yellow", "red"]


@dataclass(frozen=True)
class Curve:
    """One curve of a panel.

    Attributes:
        expr: PromQL; $cluster, $run and $__rate_interval are Grafana's.
        legend: With {{label}} where the expression gives several series.
        key: The same of one step, in metrics.jsonl; "" where a step has none.
    """

    expr: str
    legend: str
    key: str = ""

    def __post_init__(self) -> None:
        if self.key and self.key not in BY_KEY:
            raise ValueError(f"no metric of a step has the key {self.key!r}")
        if self.key and "{{" in self.legend:
            raise ValueError(f"{self.key}: a step has no labels that could fill in {self.legend!r}")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        help: What is seen, and how to read it.
        limits: Value from which the colour holds, ascending; the first is for what lies below.
        states: Of a state-timeline: value, what it means, colour.
        columns: Of a table: label, title.
        bounds: Least and greatest value of the axis; None: as the data are.
    """

    title: str
    help: str
    unit: Unit
    curves: tuple[Curve, ...]
    kind: Kind = "timeseries"
    stacked: bool = False
    logarithmic: bool = False
    bounds: tuple[float | None, float | None] = (None, None)
    limits: tuple[tuple[float, Colour], ...] = ()
    below: Colour = "green"
    states: tuple[tuple[float, str, Colour], ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    width: int = 8

    def __post_init__(self) -> None:
        if bool(self.states) != (self.kind == "state-timeline"):
            raise ValueError(
                f"{self.title}: a state-timeline says what its values mean, others not"
            )
        if bool(self.columns) != (self.kind == "table"):
            raise ValueError(f"{self.title}: a table says which columns it has, others not")


@dataclass(frozen=True)
class Row:
    """Panels under one heading, which is a question."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    help: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]


def step(key: str, legend: str = "") -> Curve:
    """The curve of a step's metric: a gauge's value, or what a counter rose by."""
    metric, selector = BY_KEY[key], of_step(key, THIS_RUN)
    expr = selector if metric.kind == "gauge" else f"increase({selector}[$__rate_interval])"
    return Curve(expr, legend or key, key)
