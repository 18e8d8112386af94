"""The columns of the step table: what is shown of a `StepReport`, for people and for grep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from sdpo_megatron.nouns import StepReport

__all__ = ["LEGEND", "fitting_columns", "header_rows", "plain_row", "step_row"]

LEGEND = (
    "teacher on failed, solved: how much more (+) or less (-) likely the teacher finds the tokens\n"
    "of such attempts than the student does, nats/token. Below 0 on failed: it knows better."
)
_BAR_CELLS = 8
_NOTHING = "-"


@dataclass(frozen=True)
class _Column:
    """One column. `keep` decides which leave first when the terminal is narrow (lowest first)."""

    name: str  # in plain lines
    group: str  # upper header line
    title: str  # lower header line
    width: int
    keep: int
    show: Callable[[Mapping[str, float]], str]
    style: Callable[[Mapping[str, float]], str] = lambda metrics: ""


def _number(key: str, form: str, scale: float = 1.0) -> Callable[[Mapping[str, float]], str]:
    def show(metrics: Mapping[str, float]) -> str:
        value = metrics.get(key, math.nan)
        return format(value * scale, form) if math.isfinite(value) else _NOTHING

    return show


def _teacher_style(key: str, good_sign: int) -> Callable[[Mapping[str, float]], str]:
    """Green where the teacher knows better, red where it prefers the wrong, by sign."""

    def style(metrics: Mapping[str, float]) -> str:
        value = metrics.get(key, math.nan) * good_sign
        return "green" if value > 0 else "red" if value < 0 else ""

    return style


def _phase(name: str, title: str, keep: int) -> _Column:
    return _Column(f"{name}_s", "seconds", title, 6, keep, _number(f"time/{name}_s", ".1f"))


_COLUMNS = (
    _Column("reward", "", "reward", 6, 20, _number("rollout/reward_mean", ".2f")),
    _Column("loss", "", "loss", 8, 90, _number("train/loss", ".4f")),
    _Column(
        "teacher_on_failed", "teacher on", "failed", 7, 80,
        _number("teacher/gain_failed", "+.3f"), _teacher_style("teacher/gain_failed", -1),
    ),
    _Column(
        "teacher_on_solved", "teacher on", "solved", 7, 70,
        _number("teacher/gain_success", "+.3f"), _teacher_style("teacher/gain_success", 1),
    ),
    _Column("length", "reply", "tokens", 6, 60, _number("rollout/response_tokens_mean", ".1f")),
    _Column("tokens_per_s", "", "tok/s", 6, 50, _number("rollout/tokens_per_s", ".0f")),
    _phase("rollout", "sample", 15), _phase("verify", "judge", 11), _phase("teacher", "teach", 12),
    _phase("student", "train", 14), _phase("optimizer", "optim", 9),
    _phase("publish", "swap", 13), _phase("checkpoint", "save", 8),
    _Column("step_s", "seconds", "step", 7, 85, _number("time/step_s", ".1f")),
    _Column("memory_gib", "memory", "GiB", 6, 40, _number("memory/all_bytes", ".1f", 2.0**-30)),
)  # fmt: skip

_STEP_WIDTH = 5
_SUCCESS_WIDTH = _BAR_CELLS + 6  # the bar and " 100 %"
_LEAD = _STEP_WIDTH + 2 + _SUCCESS_WIDTH


def fitting_columns(width: int) -> tuple[_Column, ...]:
    """The columns, in order, that fit a terminal of `width` cells beside step and success."""
    chosen = list(_COLUMNS)
    while chosen and _LEAD + sum(c.width + 1 for c in chosen) > width:
        chosen.remove(min(chosen, key=lambda column: column.keep))
    return tuple(chosen)


def header_rows(columns: Sequence[_Column]) -> tuple[Text, Text]:
    """Two header lines: group names over the columns they span, then the columns' titles."""
    upper = Text(" " * _LEAD, style="dim")
    start = 0
    while start < len(columns):
        end = start + 1
        while end < len(columns) and columns[end].group == columns[start].group != "":
            end += 1
        span = sum(column.width + 1 for column in columns[start:end]) - 1
        name = columns[start].group
        title = f" {name} ".center(span, "─") if end - start > 1 else name.rjust(span)
        upper.append(" " + title)
        start = end
    lower = Text(f"{'step':>{_STEP_WIDTH}}  {'success':<{_SUCCESS_WIDTH}}", style="bold")
    for column in columns:
        lower.append(f" {column.title:>{column.width}}")
    return upper, lower


def step_row(report: StepReport, columns: Sequence[_Column]) -> Text:
    """One line of the table."""
    rate = report.metrics.get("rollout/success_rate", math.nan)
    row = Text(f"{report.step:>{_STEP_WIDTH}}  ")
    full = 0 if math.isnan(rate) else round(rate * _BAR_CELLS)
    row.append("█" * full, style="green").append("░" * (_BAR_CELLS - full), style="dim")
    row.append(f"{_NOTHING:>6}" if math.isnan(rate) else f"{100 * rate:>4.0f} %")
    for column in columns:
        row.append(
            f" {column.show(report.metrics):>{column.width}}", style=column.style(report.metrics)
        )
    return row


def plain_row(report: StepReport) -> str:
    """One line of ``name=value`` pairs, aligned, with every column: for logs and grep."""
    rate = _number("rollout/success_rate", ".3f")(report.metrics)
    cells = [f"step={report.step:<5}", f"success={rate:<6}"]
    cells += [f"{c.name}={c.show(report.metrics):<{c.width}}" for c in _COLUMNS]
    return " ".join(cells).rstrip()
