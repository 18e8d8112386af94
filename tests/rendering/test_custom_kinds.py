"""Kinds that no Kubernetes brings by itself, by the models made from their published definitions.

JobSet: kubeflow-trainer-api, whose runtimes hold one. KEDA and the Prometheus operator: cloudcoil's
models. An object passes that is the same after its way through the model: what the definition does
not know is lost there, and what it forbids is refused. (Kueue is asked for by a label and `suspend`
alone, gVisor by `runtimeClassName`: their parts are built in.)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.rendering.committed import K8S
from tests.rendering.k8s_folder import PAIRS, Manifest, only, with_component
from tests.rendering.kustomize import kustomize

pytestmark = pytest.mark.slow  # the models take seconds to import
OPERATOR = K8S / "monitoring" / "operator"
_WITH_CUSTOM = {
    "jobset": "JobSet",
    "autoscale-keda": "ScaledObject",
    "pod-monitor": "PodMonitor",
}


def through_its_model(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """`manifest` as its definition understands it.

    Raises:
        ValueError: Its definition forbids it.
    """
    match manifest["kind"]:
        case "JobSet":
            from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

            understood: dict[str, Any] = JobsetV1alpha2JobSet.model_validate(manifest).to_dict()
            return understood
        case "ScaledObject":
            from cloudcoil.models.keda.v1alpha1 import ScaledObject as Model
        case "PodMonitor":
            from cloudcoil.models.prometheus_operator.v1 import PodMonitor as Model
        case "PrometheusRule":
            from cloudcoil.models.prometheus_operator.v1 import PrometheusRule as Model
        case kind:
            raise AssertionError(f"no model of {kind}")
    return Model.model_validate(manifest).model_dump(by_alias=True, exclude_unset=True, mode="json")


def _without_pods(job_set: Manifest) -> Manifest:
    made = copy.deepcopy(job_set)
    for job in made["spec"]["replicatedJobs"]:
        job["template"]["spec"]["template"] = {}
    return made


CASES = [pair for pair in PAIRS if pair[0] in _WITH_CUSTOM]


@pytest.mark.parametrize(("component", "overlay"), CASES)
def test_the_components_objects_are_as_defined(
    component: str, overlay: str, tmp_path: Path
) -> None:
    found = only(with_component(component, overlay, tmp_path), _WITH_CUSTOM[component])
    if found["kind"] == "JobSet":
        found = _without_pods(found)
    assert through_its_model(found) == found


def _of_the_operator() -> list[Manifest]:
    return [m for m in kustomize(OPERATOR) if "monitoring.coreos.com" in m["apiVersion"]]


def test_the_operators_objects_are_as_defined() -> None:
    found = _of_the_operator()
    assert {manifest["kind"] for manifest in found} == {"PodMonitor", "PrometheusRule"}
    for manifest in found:
        assert through_its_model(manifest) == manifest


def test_what_a_definition_does_not_know_is_seen(tmp_path: Path) -> None:
    found = with_component("jobset", "overlays/multi-node", tmp_path)
    job_set = _without_pods(only(found, "JobSet"))
    for change in (
        lambda spec: spec.update(failurePolicies={}),
        lambda spec: spec["network"].update(enableDNS=True),
        lambda spec: spec["replicatedJobs"][0]["template"]["spec"].update(completion=2),
    ):
        broken = copy.deepcopy(job_set)
        change(broken["spec"])
        assert through_its_model(broken) != broken
    (monitor,) = [m for m in _of_the_operator() if m["kind"] == "PodMonitor"]
    monitor["spec"]["podMetricsEndpoints"][0]["relabelling"] = []
    assert through_its_model(monitor) != monitor
    monitor["spec"]["selector"] = []
    with pytest.raises(ValueError, match="selector"):
        through_its_model(monitor)
