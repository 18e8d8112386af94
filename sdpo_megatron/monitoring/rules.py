"""Rules as Prometheus reads them, and as its operator does (PrometheusRule)."""

from __future__ import annotations

from typing import Any

from sdpo_megatron.monitoring.alerts import ALERTS, Alert
from sdpo_megatron.monitoring.recording import RECORDED

__all__ = ["RUNBOOKS", "prometheus_rule", "rule_groups"]

RUNBOOKS = "docs/runbooks"
"""Where the pages lie in the repository; `make monitoring RUNBOOKS=https://...` makes links."""


def rule_groups(runbooks: str = RUNBOOKS) -> dict[str, Any]:
    """A rule file."""
    recorded = [
        {"record": rule.name, "expr": rule.expr} | ({"labels": rule.labels} if rule.labels else {})
        for rule in RECORDED
    ]
    return {
        "groups": [
            {"name": "sdpo.recorded", "interval": "1m", "rules": recorded},
            {
                "name": "sdpo.alerts",
                "interval": "30s",
                "rules": [_rule(a, runbooks) for a in ALERTS],
            },
        ]
    }


def prometheus_rule(runbooks: str = RUNBOOKS) -> dict[str, Any]:
    """The same for the operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "sdpo", "labels": {"app.kubernetes.io/name": "sdpo-megatron"}},
        "spec": rule_groups(runbooks),
    }


def _rule(alert: Alert, runbooks: str) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.lasting,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"{runbooks}/{alert.name}.md",
        },
    }
