"""Dashboards hold to Grafana's schemas, and ask for what is exported."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sdpo_megatron.monitoring.dashboards import DASHBOARDS
from sdpo_megatron.monitoring.grafana import as_json
from sdpo_megatron.monitoring.panel import Curve, Dashboard, Panel
from tests.monitoring.exported import strangers

PANEL_TYPES = {"row", "timeseries", "stat", "heatmap", "state-timeline", "table"}
# Data files of grafana-foundation-sdk's repository, which its package lacks; no part of this one.
SCHEMAS = Path(__file__).parents[2].parent / "shared" / "grafana" / "jsonschema"
CURVES = [
    pytest.param(page, panel, curve, id=f"{page.uid} {panel.title}: {curve.legend or curve.expr}")
    for page in DASHBOARDS
    for panel in page.panels
    for curve in panel.curves
]
pages = pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.uid)


@functools.cache
def plain(page: Dashboard) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(as_json(page))
    return parsed


@functools.cache
def schema(name: str) -> Any:
    if not SCHEMAS.is_dir():
        pytest.skip(f"the JSON Schemas of Grafana's dashboards are not at {SCHEMAS}")
    found = json.loads((SCHEMAS / f"{name}.jsonschema.json").read_text())
    return jsonschema.validators.validator_for(found)(found)


def everything(value: Any) -> list[Any]:
    """Every object in a JSON value."""
    if isinstance(value, list):
        return [found for item in value for found in everything(item)]
    if isinstance(value, dict):
        return [value, *(found for item in value.values() for found in everything(item))]
    return []


@pages
def test_the_schemas_hold(page: Dashboard) -> None:
    faults = [error.message for error in schema("dashboard").iter_errors(plain(page))]
    for panel in plain(page)["panels"]:
        for target in panel.get("targets", ()):
            faults += [error.message for error in schema("prometheus").iter_errors(target)]
    assert faults == []


@pages
def test_panels_are_of_known_types_and_what_must_be_unique_is(page: Dashboard) -> None:
    panels = plain(page)["panels"]
    assert {panel["type"] for panel in panels} <= PANEL_TYPES
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in panels]
    for panel in panels:
        refs = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(refs)) == len(refs)
        assert all(refs), panel["title"]
        assert panel["type"] == "row" or refs, panel["title"]
    assert len(set(titles)) == len(titles)


@pages
def test_panels_do_not_overlap(page: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in plain(page)["panels"]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        cells = {
            (grid["x"] + dx, grid["y"] + dy) for dx in range(grid["w"]) for dy in range(grid["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@pages
def test_every_datasource_is_the_variable(page: Dashboard) -> None:
    found = [each["datasource"] for each in everything(plain(page)) if each.get("datasource")]
    assert found
    assert all(ds == {"type": "prometheus", "uid": "${datasource}"} for ds in found)


@pages
def test_there_are_variables_links_and_annotations(page: Dashboard) -> None:
    dashboard = plain(page)
    assert [v["name"] for v in dashboard["templating"]["list"]] == ["datasource", "cluster", "run"]
    (link,) = dashboard["links"]
    assert link["tags"] == dashboard["tags"] == ["sdpo"]
    assert (link["includeVars"], link["keepTime"]) == (True, True)
    marks = {mark["name"]: mark["expr"] for mark in dashboard["annotations"]["list"]}
    assert set(marks) == {"Hot swaps", "Checkpoints", "Restarts", "Engines lost", "Alerts"}
    assert [wrong for expr in marks.values() for wrong in strangers(expr)] == []


@pages
def test_every_panel_has_a_unit_and_says_what_is_seen(page: Dashboard) -> None:
    for panel in plain(page)["panels"]:
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["description"].endswith("."), panel["title"]


@pages
def test_states_have_a_meaning_and_a_colour_and_tables_the_columns_that_matter(
    page: Dashboard,
) -> None:
    for panel, drawn in zip(page.panels, _drawn(page), strict=True):
        if panel.kind == "state-timeline":
            (mapping,) = drawn["fieldConfig"]["defaults"]["mappings"]
            assert {mapping["options"][value]["color"] for value in "01"} == {"green", "red"}
        if panel.kind == "table":
            wanted, order = [t["options"] for t in drawn["transformations"][1:]]
            assert wanted["include"]["names"] == [label for label, _ in panel.columns]
            assert order["renameByName"] == dict(panel.columns)
        if panel.kind == "stat":  # a phase is the name of the only series
            named = any(curve.legend for curve in panel.curves)
            assert drawn["options"]["textMode"] == ("value_and_name" if named else "value")


def _drawn(page: Dashboard) -> list[dict[str, Any]]:
    return [panel for panel in plain(page)["panels"] if panel["type"] != "row"]


def test_alerts_link_to_their_pages_where_an_address_is_known() -> None:
    linked = as_json(DASHBOARDS[0], "https://pages.example.com/runbooks")
    assert "https://pages.example.com/runbooks/${__value.raw}.md" in linked
    assert "${__value.raw}" not in as_json(DASHBOARDS[0], "docs/runbooks")


@pytest.mark.parametrize(("page", "panel", "curve"), CURVES)
def test_an_expression_asks_for_exported_series_of_the_chosen_run_alone(
    page: Dashboard, panel: Panel, curve: Curve
) -> None:
    assert strangers(curve.expr) == []
    assert 'run=~"$run"' in curve.expr
    assert 'cluster=~"$cluster"' in curve.expr


def test_what_is_not_exported_is_found() -> None:
    assert strangers('sdpo_steps{run=~"$run"}') == ["sdpo_steps"]
    assert strangers('sum(rate(sdpo_step{engine="a"}[$__rate_interval]))') == ["sdpo_step: engine"]
    with pytest.raises(ValueError, match=r"."):
        strangers("sum(rate(sdpo_step[5m])")
