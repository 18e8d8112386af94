"""Who is scraped, and which labels a target gets: its run, its component, its cluster.

The run's unique name is the label app.kubernetes.io/instance of its pods. Of a trainer of several
pods the first alone has metrics. `cluster` is a target label, not an external one: Prometheus does
not put those on what it answers itself.
"""

from __future__ import annotations

from typing import Any

__all__ = ["laptop", "pod_monitor", "prometheus"]

APPLICATION = "sdpo-megatron"
PORTS = {"trainer": "metrics", "engine": "http", "verifier": "http"}
"""Name of the port of each component's container that serves /metrics."""
_META = "__meta_kubernetes_pod"
_LABEL = f"{_META}_label_app_kubernetes_io"
_INDEX = f"{_META}_annotation_batch_kubernetes_io_job_completion_index"
_CLUSTER = "default"


def pod_monitor() -> dict[str, Any]:
    """For the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "sdpo", "labels": {"app.kubernetes.io/name": APPLICATION}},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": APPLICATION}},
            "podMetricsEndpoints": [
                {"port": port, "relabelings": [_camel(rule) for rule in _relabelings(port)]}
                for port in dict.fromkeys(PORTS.values())
            ],
        },
    }


def prometheus() -> dict[str, Any]:
    """A configuration for a Prometheus without the operator, in the cluster."""
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "30s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {
                "job_name": f"sdpo-{port}",
                "kubernetes_sd_configs": [{"role": "pod"}],
                "relabel_configs": [
                    _keep(f"{_LABEL}_name", APPLICATION),
                    _keep(f"{_META}_container_port_name", port),
                    _keep(f"{_META}_phase", "Running"),
                    *_relabelings(port),
                    {"source_labels": [f"{_META}_name"], "target_label": "pod"},
                    {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
                ],
            }
            for port in dict.fromkeys(PORTS.values())
        ],
    }


def laptop(targets: dict[str, str], run: str = "quickstart") -> dict[str, Any]:
    """A configuration for a run on this machine.

    Args:
        targets: HOST:PORT by component.
        run: What to call it.
    """
    return {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {
                "job_name": f"sdpo-{component}",
                "static_configs": [
                    {
                        "targets": [target],
                        "labels": {"cluster": "laptop", "run": run, "component": component},
                    }
                ],
            }
            for component, target in targets.items()
        ],
    }


def _relabelings(port: str) -> list[dict[str, Any]]:
    components = [component for component, name in PORTS.items() if name == port]
    rules = [
        _keep(f"{_LABEL}_component", "|".join(components)),
        {"source_labels": [f"{_LABEL}_instance"], "target_label": "run"},
        {"source_labels": [f"{_LABEL}_component"], "target_label": "component"},
        {"target_label": "cluster", "replacement": _CLUSTER},
    ]
    return [_keep(_INDEX, "0"), *rules] if "trainer" in components else rules


def _keep(label: str, regex: str) -> dict[str, Any]:
    return {"source_labels": [label], "regex": regex, "action": "keep"}


def _camel(rule: dict[str, Any]) -> dict[str, Any]:
    """As the operator spells the same."""
    names = {"source_labels": "sourceLabels", "target_label": "targetLabel"}
    return {names.get(key, key): value for key, value in rule.items()}
