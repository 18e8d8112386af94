"""promtool takes rules and configurations; every alert fires when it should and only then."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdpo_megatron.monitoring.alerts import ALERTS
from sdpo_megatron.monitoring.dashboards import DASHBOARDS
from sdpo_megatron.monitoring.files import files
from sdpo_megatron.monitoring.grafana import as_json
from sdpo_megatron.monitoring.recording import RECORDED
from sdpo_megatron.monitoring.rules import prometheus_rule, rule_groups
from tests.monitoring.alert_cases import CASES, POD, STARTING, Case
from tests.monitoring.exported import plain, strangers

REPOSITORY = Path(__file__).parents[2]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (apt-get install prometheus)",
)


def promtool(*arguments: str, folder: Path) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_rules_and_configurations_check(tmp_path: Path) -> None:
    for name in ("rules.yaml", "prometheus-laptop.yaml", "prometheus.yaml"):
        (tmp_path / name).write_text(files()[name])
    promtool("check", "rules", "rules.yaml", folder=tmp_path)
    promtool("check", "config", "prometheus-laptop.yaml", folder=tmp_path)
    config = yaml.safe_load((tmp_path / "prometheus.yaml").read_text())
    for job in config["scrape_configs"]:
        # Debian builds promtool without the Kubernetes discovery: the rest is checked.
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    promtool("check", "config", "prometheus.yaml", folder=tmp_path)


@pytest.mark.parametrize("rule", [*RECORDED, *ALERTS], ids=lambda rule: rule.name)
def test_a_rule_asks_for_exported_series_alone(rule: Any) -> None:
    if not rule.expr.startswith("vector("):
        assert strangers(rule.expr) == []


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_says_what_it_saw_and_has_a_page(alert: Any) -> None:
    assert alert.name.startswith("Sdpo")
    assert "{{ $labels.run }}" in alert.summary
    assert len(alert.summary) < 120
    assert alert.description.endswith(".")
    page = (REPOSITORY / "docs" / "runbooks" / f"{alert.name}.md").read_text()
    assert page.startswith(f"# {alert.name}\n")
    for heading in ("## What it means", "## Look at", "## Do"):
        assert heading in page


def test_there_is_no_page_without_an_alert() -> None:
    pages = {page.stem for page in (REPOSITORY / "docs" / "runbooks").glob("Sdpo*.md")}
    assert pages == {alert.name for alert in ALERTS}


def test_every_alert_has_a_case_that_fires_and_one_that_is_silent() -> None:
    names = {alert.name for alert in ALERTS}
    assert {case.alert for case in CASES if case.fires} == names
    assert {case.alert for case in CASES if not case.fires} == names


def _with_labels(series: str) -> str:
    name, _, more = series.partition("{")
    labels = [f'{key}="{value}"' for key, value in POD.items()]
    return f"{name}{{{','.join([*labels, *filter(None, [more.rstrip('}')])])}}}"


def _expected(case: Case) -> list[dict[str, Any]]:
    severity = {alert.name: alert.severity for alert in ALERTS}[case.alert]
    return [{"exp_labels": {**case.labels, "severity": severity}}] if case.fires else []


def _unit_test(case: Case) -> dict[str, Any]:
    return {
        "name": f"{case.alert}: {case.what}",
        "interval": "1m",
        "input_series": [
            {"series": _with_labels(series), "values": values}
            for series, values in case.samples.items()
        ],
        "alert_rule_test": [
            {"eval_time": case.at, "alertname": case.alert, "exp_alerts": _expected(case)}
        ],
    }


def _write_tests(folder: Path, tests: list[dict[str, Any]]) -> None:
    rules = rule_groups()
    for group in rules["groups"]:
        for rule in group["rules"]:
            # promtool compares texts too; here it is whether an alert fires, and of whom.
            rule.pop("annotations", None)
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    told = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(told))


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    _write_tests(tmp_path, [_unit_test(case) for case in CASES])
    promtool("test", "rules", "tests.yaml", folder=tmp_path)


@needs_promtool
def test_before_step_1_nothing_fires(tmp_path: Path) -> None:
    test = _unit_test(Case(ALERTS[0].name, "before step 1", "1m", STARTING, fires=False))
    test["alert_rule_test"] = [
        {"eval_time": at, "alertname": alert.name, "exp_alerts": []}
        for at in ("1m", "20m", "200m")
        for alert in ALERTS
    ]
    _write_tests(tmp_path, [test])
    promtool("test", "rules", "tests.yaml", folder=tmp_path)


@needs_promtool
def test_the_summaries_read_well(tmp_path: Path) -> None:
    """One alert with its texts filled in; that all templates parse, `promtool check rules` says."""
    (tmp_path / "rules.yaml").write_text(files()["rules.yaml"])
    case = next(c for c in CASES if c.alert == "SdpoSwapFailures" and c.fires)
    test = _unit_test(case)
    test["alert_rule_test"][0]["exp_alerts"][0]["exp_annotations"] = {
        "summary": "r: e did not take a hot swap",
        "description": "The engine did not load new weights or its checksum differed. It was taken "
        "out and comes back at the current version; sampling goes on with the others.",
        "runbook_url": "docs/runbooks/SdpoSwapFailures.md",
    }
    told = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(told))
    promtool("test", "rules", "tests.yaml", folder=tmp_path)


@needs_promtool
def test_the_first_checkpoint_is_marked_for_half_a_minute(tmp_path: Path) -> None:
    marks = json.loads(as_json(DASHBOARDS[0]))["annotations"]["list"]
    (expr,) = [plain(mark["expr"]) for mark in marks if mark["name"] == "Checkpoints"]
    saved = 'sdpo_checkpoint_last_success_timestamp_seconds{cluster="c",run="r"}'
    marked = [{"labels": '{cluster="c", run="r"}', "value": 10.0}]
    test = {
        "interval": "10s",
        "input_series": [{"series": saved, "values": "_x10 100x20"}],
        "promql_expr_test": [
            {"expr": expr, "eval_time": at, "exp_samples": found}
            for at, found in (("90s", []), ("110s", marked), ("150s", []))
        ],
    }
    _write_tests(tmp_path, [test])
    promtool("test", "rules", "tests.yaml", folder=tmp_path)


@needs_promtool
def test_utilisation_and_device_hours_are_computed(tmp_path: Path) -> None:
    h100 = 'model="NVIDIA H100 80GB HBM3"'
    run = 'cluster="c",run="r"'
    utilisation = "run:sdpo_model_flops_utilisation:ratio1h"
    samples = {
        # 989e12 a second and device is the peak; two devices at a quarter of it.
        "sdpo_train_flops_total": "0+29670000000000000x1500",
        f'sdpo_devices{{role="trainer",{h100}}}': "2x1500",
        f'sdpo_devices{{role="engine",{h100}}}': "6x1500",
        'sdpo_phase_seconds_total{phase="rollout"}': "0+40x1500",
        'sdpo_phase_seconds_total{phase="student"}': "0+20x1500",
    }
    test = {
        "interval": "1m",
        "input_series": [
            {"series": _with_labels(series), "values": values} for series, values in samples.items()
        ],
        "promql_expr_test": [
            {
                "expr": utilisation, "eval_time": "120m",
                "exp_samples": [{"labels": f"{utilisation}{{{run}}}", "value": 0.25}],
            },
            {
                "expr": "round(run:sdpo_device_hours:increase1d, 0.1)", "eval_time": "1500m",
                "exp_samples": [
                    {"labels": f'{{{run},role="engine",{h100}}}', "value": 6 * 24},
                    {"labels": f'{{{run},role="trainer",{h100}}}', "value": 2 * 24},
                ],
            },
        ],
    }  # fmt: skip
    _write_tests(tmp_path, [test])
    promtool("test", "rules", "tests.yaml", folder=tmp_path)


def test_the_operators_object_holds_the_same_rules() -> None:
    assert prometheus_rule()["spec"] == rule_groups()
