"""The dashboards as Grafana's JSON, by its own SDK (the extra `dev`)."""

from __future__ import annotations

import itertools
import json
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from sdpo_megatron.monitoring.grafana_panels import DATASOURCE, panel_of
from sdpo_megatron.monitoring.panel import Dashboard
from sdpo_megatron.monitoring.promql import THIS_RUN, of_step, select
from sdpo_megatron.observability import series

__all__ = ["as_json"]

TAG = "sdpo"


def as_json(page: Dashboard, runbooks: str = "") -> str:
    """The dashboard, indented and with its keys in order, so that a change reads well.

    Args:
        runbooks: Address of the alerts' pages, for links to them; "" makes none.
    """
    built = _builder(page, runbooks).build()
    plain = json.loads(json.dumps(built, cls=JSONEncoder))
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


def _builder(page: Dashboard, runbooks: str) -> dashboard.Dashboard:
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
            built = built.with_panel(panel_of(panel, runbooks).id(next(numbers)))
    return built


def _variables() -> list[Any]:
    """Datasource, cluster, and the runs of it."""
    run = select(series.RUN_INFO, 'cluster=~"$cluster"')

    def asked(name: str, label: str, query: str) -> dashboard.QueryVariable:
        return (
            dashboard.QueryVariable(name)
            .label(label)
            .datasource(DATASOURCE)
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
    fires = f'ALERTS{{alertstate="firing",{THIS_RUN}}}'
    marks = [
        ("Hot swaps", f"changes({swapped}[1m]) > 0", "new policy version", "blue", False),
        # Not by changes(): the first of a process has none before it.
        ("Checkpoints", f"time() - {saved} < 30", "checkpoint", "green", True),
        ("Restarts", f"changes({started}[5m]) > 0", "trainer restarted", "red", True),
        ("Engines lost", f"increase({lost}[1m]) > 0", "{{engine}}: {{reason}}", "orange", True),
        ("Alerts", fires, "{{alertname}}", "dark-red", True),
    ]  # of runs with quick steps, swaps would hide the curves: a click shows them
    return [
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .expr(expr)
        .enable(shown)
        .icon_color(colour)
        .title_format(title)
        .text_format("{{run}}")
        .step("30s")
        .use_value_for_time(False)
        for name, expr, title, colour, shown in marks
    ]
