"""The dashboards as Grafana's JSON, by its own SDK (the extra `dev`)."""

from __future__ import annotations

import itertools
import json
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
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from sdpo_megatron.monitoring.panel import Dashboard, Panel
from sdpo_megatron.monitoring.promql import THIS_RUN, of_step, select
from sdpo_megatron.observability import series

__all__ = ["as_json"]

TAG = "sdpo"
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


def as_json(page: Dashboard) -> str:
    """The dashboard, indented and with its keys in order, so that a change reads well."""
    built = _builder(page).build()
    plain = json.loads(json.dumps(built, cls=JSONEncoder))
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


def _datasource() -> model.DataSourceRef:
    """What the variable chooses: a uid would hold in one Grafana alone."""
    return model.DataSourceRef(type_val="prometheus", uid="${datasource}")


def _builder(page: Dashboard) -> dashboard.Dashboard:
    built = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.help)
        .tags([TAG])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Other dashboards of this run")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in _variables():
        built = built.with_variable(variable)
    for annotation in _annotations():
        built = built.annotation(annotation)
    numbers = itertools.count(1)
    for row in page.rows:
        built = built.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            built = built.with_panel(_panel(panel).id(next(numbers)))
    return built


def _variables() -> list[Any]:
    """Datasource, cluster, and the runs of it."""
    run = select(series.RUN_INFO, 'cluster=~"$cluster"')

    def asked(name: str, label: str, query: str) -> dashboard.QueryVariable:
        return (
            dashboard.QueryVariable(name)
            .label(label)
            .datasource(_datasource())
            .query(query)
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
        )

    return [
        dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        asked("cluster", "Cluster", f"label_values({series.RUN_INFO.name}, cluster)")
        .include_all(True)
        .all_value(".*"),
        asked("run", "Run", f"label_values({run}, run)"),
    ]


def _annotations() -> list[dashboard.AnnotationQuery]:
    swapped = of_step("policy/version", THIS_RUN)
    saved = select(series.CHECKPOINT_LAST_SUCCESS_TIME, THIS_RUN)
    started = select(series.RUN_START_TIME, THIS_RUN)
    lost = select(series.ENGINE_EXITS, THIS_RUN)
    marks = [
        ("Hot swaps", f"changes({swapped}[1m]) > 0", "new policy version", "blue", False),
        ("Checkpoints", f"changes({saved}[1m]) > 0", "checkpoint", "green", True),
        ("Restarts", f"changes({started}[5m]) > 0", "trainer restarted", "red", True),
        ("Engines lost", f"increase({lost}[1m]) > 0", "{{engine}}: {{reason}}", "orange", True),
    ]  # of runs with quick steps, swaps would hide the curves: a click shows them
    return [
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(_datasource())
        .expr(expr)
        .enable(shown)
        .icon_color(colour)
        .title_format(title)
        .text_format("{{run}}")
        .step("30s")
        .use_value_for_time(False)
        for name, expr, title, colour, shown in marks
    ]


def _panel(panel: Panel) -> Any:
    low, high = panel.bounds
    built = (
        _BUILDERS[panel.kind]()
        .title(panel.title)
        .description(panel.help)
        .datasource(_datasource())
        .unit(_UNITS[panel.unit])
        .span(panel.width)
        .height(_STAT_HEIGHT if panel.kind == "stat" else _HEIGHT)
        .thresholds(_thresholds(panel))
    )
    if low is not None:
        built = built.min(low)
    if high is not None:
        built = built.max(high)
    if panel.kind == "timeseries":
        built = _drawn(built, panel)
    elif panel.kind == "stat":
        built = built.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    for letter, curve in zip("ABCDEFGHIJKL", panel.curves, strict=False):
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
        .datasource(_datasource())
    )
    if panel.kind == "heatmap":
        return query.format(PromQueryFormat.HEATMAP)
    if panel.kind == "table":
        return query.instant().format(PromQueryFormat.TABLE)
    return query.instant() if panel.kind == "stat" else query.range()
