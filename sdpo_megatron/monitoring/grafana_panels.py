"""One panel as Grafana's SDK builds it: what each kind needs so that it reads well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from sdpo_megatron.monitoring.panel import Panel

__all__ = ["DATASOURCE", "panel_of"]

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
"""What the variable chooses: a uid would hold in one Grafana alone."""
_UNITS = {
    "ratio": "percentunit", "s": "s", "bytes": "bytes", "tokens": "short", "items": "short",
    "tokens/s": "suffix: tokens/s", "nats/token": "suffix: nats", "FLOP/s": "flops",
    "items/s": "suffix: /s", "version": "none", "reward": "none", "1": "none",
}  # fmt: skip
_BUILDERS: dict[str, Any] = {
    "timeseries": timeseries.Panel,
    "stat": stat.Panel,
    "heatmap": heatmap.Panel,
    "state-timeline": statetimeline.Panel,
    "table": table.Panel,
}
_HEIGHT, _STAT_HEIGHT = 8, 5
_LETTERS = "ABCDEFGHIJKL"


def panel_of(panel: Panel, runbooks: str) -> Any:
    """The builder of a panel.

    Args:
        runbooks: Address below which the alerts' pages can be read; a path makes no link.
    """
    low, high = panel.bounds
    built = (
        _BUILDERS[panel.kind]()
        .title(panel.title)
        .description(panel.help)
        .datasource(DATASOURCE)
        .unit(_UNITS[panel.unit])
        .span(panel.width)
        .height(_STAT_HEIGHT if panel.kind == "stat" else _HEIGHT)
        .thresholds(_thresholds(panel))
    )
    if low is not None:
        built = built.min(low)
    if high is not None:
        built = built.max(high)
    match panel.kind:
        case "timeseries":
            built = _drawn(built, panel)
        case "stat":
            built = _number(built, panel)
        case "state-timeline":
            built = _states(built, panel)
        case "heatmap":  # its cells are counts; what is measured stands on the axis
            built = built.unit("short").y_axis(heatmap.YAxisConfig().unit(_UNITS[panel.unit]))
        case "table":
            built = _table(built, panel, runbooks)
    for letter, curve in zip(_LETTERS, panel.curves, strict=False):
        built = built.with_target(_query(letter, panel, curve.expr, curve.legend))
    return built


def _drawn(built: timeseries.Panel, panel: Panel) -> timeseries.Panel:
    built = (
        built.line_width(1.5)
        .fill_opacity(40 if panel.stacked else 8)
        # A series of a step is absent where the step had nothing to measure: that is a gap.
        .span_nulls(False)
        .tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI))
    )
    if panel.stacked:
        built = built.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))
    if panel.logarithmic:
        scale = common_model.ScaleDistribution.LOG
        built = built.scale_distribution(common.ScaleDistributionConfig().type(scale).log(10))
    if panel.limits:
        dashed = common_model.GraphThresholdsStyleMode.DASHED
        built = built.thresholds_style(common.GraphThresholdsStyleConfig().mode(dashed))
    return built


def _number(built: stat.Panel, panel: Panel) -> stat.Panel:
    """The name beside the value, also where there is one alone: it may be a phase."""
    named = any(curve.legend for curve in panel.curves)
    mode = common_model.BigValueTextMode
    return (
        built.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .text_mode(mode.VALUE_AND_NAME if named else mode.VALUE)
        .graph_mode(common_model.BigValueGraphMode.NONE)
    )


def _states(built: statetimeline.Panel, panel: Panel) -> statetimeline.Panel:
    meanings = {
        str(value): model.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, text, colour) in enumerate(panel.states)
    }
    return built.mappings([model.ValueMap(options=meanings)]).merge_values(True)


def _table(built: table.Panel, panel: Panel, runbooks: str) -> table.Panel:
    """The wanted labels as columns, in their order; what Prometheus adds is left out."""
    columns = dict(panel.columns)
    built = built.with_transformation(model.DataTransformerConfig("merge", options={}))
    built = built.with_transformation(
        model.DataTransformerConfig(
            "filterFieldsByName", options={"include": {"names": list(columns)}}
        )
    )
    built = built.with_transformation(
        model.DataTransformerConfig(
            "organize",
            options={
                "indexByName": {label: place for place, label in enumerate(columns)},
                "renameByName": columns,
            },
        )
    )
    if "alertname" in columns and "://" in runbooks:
        link = {
            "title": "What to do",
            "url": f"{runbooks}/${{__value.raw}}.md",
            "targetBlank": True,
        }
        built = built.override_by_name(
            columns["alertname"], [model.DynamicConfigValue("links", [link])]
        )
    return built


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps: Sequence[tuple[float | None, str]] = ((None, panel.below), *panel.limits)
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=colour) for value, colour in steps])
    )


def _query(letter: str, panel: Panel, expr: str, legend: str) -> prometheus.Dataquery:
    query = (
        prometheus.Dataquery()
        .ref_id(letter)
        .expr(expr)
        .legend_format(legend)
        .datasource(DATASOURCE)
    )
    if panel.kind == "heatmap":
        return query.format(PromQueryFormat.HEATMAP)
    if panel.kind == "table":
        return query.instant().format(PromQueryFormat.TABLE)
    return query.instant() if panel.kind == "stat" else query.range()
