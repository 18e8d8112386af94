"""k8s/monitoring is what the declarations say, and what it holds is well formed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from sdpo_megatron.monitoring.files import files
from sdpo_megatron.monitoring.scrape import pod_monitor, prometheus

FOLDER = Path(__file__).parents[2] / "k8s" / "monitoring"


def test_the_folder_is_what_the_declarations_say() -> None:
    written = {
        str(path.relative_to(FOLDER)): path.read_text()
        for path in FOLDER.rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    generated = files()
    assert sorted(written) == sorted(generated)
    for path, text in generated.items():
        assert written[path] == text, f"k8s/monitoring/{path} is out of date: run `make monitoring`"


def test_config_maps_hold_the_dashboards_and_tell_grafana_where_they_are() -> None:
    *maps, provider = yaml.safe_load_all((FOLDER / "grafana" / "dashboards.yaml").read_text())
    found = {name: text for each in maps for name, text in each["data"].items()}
    assert found == {p.name: p.read_text() for p in (FOLDER / "dashboards").glob("*.json")}
    for each in maps:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert len(json.dumps(each)) < 2**20, "a ConfigMap holds a mebibyte at most"
    (provided,) = yaml.safe_load(provider["data"]["sdpo.yaml"])["providers"]
    assert provided["options"]["path"].startswith("/")


def test_every_kustomization_names_the_files_beside_it() -> None:
    for file in FOLDER.rglob("kustomization.yaml"):
        resources = yaml.safe_load(file.read_text())["resources"]
        beside = {path.name for path in file.parent.iterdir()} - {file.name}
        assert set(resources) == beside


def relabelled(rules: list[dict[str, Any]], found: dict[str, str]) -> dict[str, str] | None:
    """What the rules make of a discovered target: its labels, None when it is left out."""
    labels: dict[str, str] = {}
    for rule in rules:
        value = ";".join(found.get(name, "") for name in rule.get("source_labels", ()))
        if rule.get("action") == "keep":
            if not re.fullmatch(rule["regex"], value):
                return None
        else:
            labels[rule["target_label"]] = rule.get("replacement", value)
    return labels


def pod(component: str, port: str, **more: str) -> dict[str, str]:
    meta = "__meta_kubernetes_pod"
    return {
        f"{meta}_label_app_kubernetes_io_name": "sdpo-megatron",
        f"{meta}_label_app_kubernetes_io_instance": "my-run",
        f"{meta}_label_app_kubernetes_io_component": component,
        f"{meta}_container_port_name": port,
        f"{meta}_phase": "Running",
        f"{meta}_name": f"{component}-0",
        "__meta_kubernetes_namespace": "ml",
        **{f"{meta}_{key}": value for key, value in more.items()},
    }


def scraped(found: dict[str, str]) -> list[dict[str, str]]:
    jobs = prometheus()["scrape_configs"]
    kept = (relabelled(job["relabel_configs"], found) for job in jobs)
    return [labels for labels in kept if labels is not None]


def test_each_component_is_scraped_once_with_its_run_as_a_label() -> None:
    index = "annotation_batch_kubernetes_io_job_completion_index"
    targets = [pod("engine", "http"), pod("verifier", "http")]
    targets += [pod("trainer", "metrics", **{index: "0"})]
    for target in targets:
        (labels,) = scraped(target)
        assert labels["run"] == "my-run"
        assert labels["cluster"] == "default"
        assert labels["pod"] == f"{labels['component']}-0"


def test_other_pods_and_ports_and_the_trainers_other_pods_are_left_alone() -> None:
    index = "annotation_batch_kubernetes_io_job_completion_index"
    assert scraped(pod("trainer", "metrics", **{index: "1"})) == []
    assert scraped(pod("trainer", "ranks", **{index: "0"})) == []
    assert scraped(pod("engine", "http", phase="Pending")) == []
    assert scraped(pod("engine", "http", label_app_kubernetes_io_name="other")) == []


def test_the_operators_monitor_has_the_same_rules() -> None:
    for endpoint in pod_monitor()["spec"]["podMetricsEndpoints"]:
        (job,) = (
            job
            for job in prometheus()["scrape_configs"]
            if job["job_name"] == f"sdpo-{endpoint['port']}"
        )
        names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
        rules = [{names.get(k, k): v for k, v in rule.items()} for rule in endpoint["relabelings"]]
        assert all(rule in job["relabel_configs"] for rule in rules)
