"""A real Prometheus in a pod of the cluster, which scrapes the run's pods.

Debian's build has no kubernetes_sd_configs. So the test tells it which pods there are, with the
labels that `role: pod` would give them (a file of file_sd_configs); what is made of them is up to
the relabelling of k8s/monitoring/prometheus.yaml, as it stands there.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from sdpo_megatron.monitoring.rules import rule_groups
from sdpo_megatron.monitoring.scrape import prometheus
from tests.cluster import cluster

NAMESPACE = "monitoring"
IMAGE = "localhost/sdpo-prometheus:end-to-end"
_TARGETS = "/prometheus/pods.json"
_META = "__meta_kubernetes_pod"
_ASK = """
import sys, urllib.parse, urllib.request
query, path = sys.argv[1:]
url = f"http://127.0.0.1:9090/api/v1/{path}?{urllib.parse.urlencode({'query': query})}"
print(urllib.request.urlopen(url).read().decode())
"""


def start() -> None:
    """Apply it, and wait until it is ready."""
    config = prometheus()
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "5s"}
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        job["file_sd_configs"] = [{"files": [_TARGETS]}]
    rules = rule_groups()
    for group in rules["groups"]:
        group["interval"] = "5s"
    data = {"prometheus.yaml": yaml.safe_dump(config), "rules.yaml": yaml.safe_dump(rules)}
    manifests = [_namespace(), _config_map(data), _pod()]
    cluster.call("kubectl", "apply", "-f", "-", text=yaml.safe_dump_all(manifests))
    _kubectl("wait", "--for=condition=Ready", "pod/prometheus", "--timeout=120s")


def tell() -> None:
    """Tell it of the pods that there are now."""
    pods = cluster.objects("pods")
    targets = [target for pod in pods for target in discovered(pod)]
    there = f"cat > {_TARGETS}.new && mv {_TARGETS}.new {_TARGETS}"
    _kubectl("exec", "-i", "prometheus", "--", "sh", "-c", there, text=json.dumps(targets))


def discovered(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets that `role: pod` finds in a pod: one for each port of a container."""
    about, status = pod["metadata"], pod["status"]
    if not status.get("podIP"):
        return []
    labels = {
        "__meta_kubernetes_namespace": about["namespace"],
        f"{_META}_name": about["name"],
        f"{_META}_phase": status["phase"],
        **{f"{_META}_label_{_word(k)}": v for k, v in about["labels"].items()},
        **{f"{_META}_annotation_{_word(k)}": v for k, v in about.get("annotations", {}).items()},
    }
    return [
        {
            "targets": [f"{status['podIP']}:{port['containerPort']}"],
            "labels": labels | {f"{_META}_container_port_name": port.get("name", "")},
        }
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    ]


def ask(query: str) -> list[dict[str, Any]]:
    """What it answers now."""
    found: list[dict[str, Any]] = _api("query", query)["result"]
    return found


def faulty_rules() -> list[str]:
    """Rules that could not be evaluated."""
    groups = _api("rules", "")["groups"]
    return [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"]


def firing() -> list[str]:
    """Alerts that fire."""
    return sorted({found["metric"]["alertname"] for found in ask('ALERTS{alertstate="firing"}')})


def remove() -> None:
    """Delete it."""
    cluster.call("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found")


def _api(path: str, query: str) -> dict[str, Any]:
    said = _kubectl("exec", "prometheus", "--", "python3", "-c", _ASK, query, path)
    answer: dict[str, Any] = json.loads(said)["data"]
    return answer


def _kubectl(*words: str, text: str | None = None) -> str:
    return cluster.call("kubectl", "-n", NAMESPACE, *words, text=text, timeout_s=180.0)


def _word(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _namespace() -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def _config_map(data: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": "prometheus", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _pod() -> dict[str, Any]:
    container = {
        "name": "prometheus",
        "image": IMAGE,
        "command": ["prometheus", "--config.file=/etc/prometheus/prometheus.yaml"],
        "args": ["--storage.tsdb.path=/prometheus/data"],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/prometheus"},
            {"name": "data", "mountPath": "/prometheus"},
        ],
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsUser": 10001, "fsGroup": 10001},
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": "prometheus"}},
            {"name": "data", "emptyDir": {}},
        ],
    }
    labels = {"app.kubernetes.io/name": "prometheus"}
    metadata = {"name": "prometheus", "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
