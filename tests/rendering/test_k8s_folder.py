"""k8s/: what is committed is what the renderer says, and every set of manifests is valid."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sdpo_megatron.config.composing import compose
from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.rendering import committed
from sdpo_megatron.rendering.cli import main
from sdpo_megatron.rendering.verifiers import RESTRICTED_LAYERS
from sdpo_megatron.sandbox.config import LAYERS
from tests.rendering.k8s_folder import (
    COMPONENTS,
    OVERLAYS,
    PAIRS,
    Manifest,
    main_container,
    of_overlay,
    of_rendering,
    only,
    with_component,
)
from tests.rendering.restricted import pods, violations

VERSIONS = [f"1.{minor}" for minor in range(28, 38)]
CUSTOM = {"JobSet", "ScaledObject", "PodMonitor", "PrometheusRule"}
"""Kinds of components that no schema of Kubernetes knows: see test_custom_kinds."""


@pytest.fixture(autouse=True, scope="module")
def _schemas_are_read_once() -> Iterator[None]:
    utils = kubernetes_validate.utils
    read = utils.schema_contents
    utils.schema_contents = functools.cache(read)
    yield
    utils.schema_contents = read


@functools.cache
def _valid(text: str, version: str) -> bool:
    kubernetes_validate.validate(json.loads(text), version, strict=True)
    return True


def check_schemas(manifests: Iterable[Manifest]) -> None:
    """Strictly, by every version; a JobSet's Job as the Job that it will be."""
    for manifest in manifests:
        if manifest["kind"] == "JobSet":
            inner = manifest["spec"]["replicatedJobs"][0]["template"]
            manifest = {"apiVersion": "batch/v1", "kind": "Job", **inner}
        if manifest["kind"] not in CUSTOM:
            for version in VERSIONS:
                assert _valid(json.dumps(manifest, sort_keys=True), version)


def check_pods(manifests: list[Manifest]) -> None:
    """Our policy, and a grace that is in time."""
    found = pods(manifests)
    assert found
    assert {pod.owner: violations(pod) for pod in found if violations(pod)} == {}


@pytest.mark.parametrize("folder", committed.COMMITTED)
def test_what_is_committed_is_what_the_renderer_says(folder: str) -> None:
    texts = dict(committed.texts())[committed.K8S / folder]
    there = {path.name: path.read_text() for path in (committed.K8S / folder).iterdir()}
    assert there == dict(texts), "write them anew: make manifests"


@pytest.mark.parametrize("folder", committed.COMMITTED)
def test_renderings_hold_by_every_schema_and_the_policy(folder: str) -> None:
    manifests = of_rendering(folder)
    check_schemas(manifests)
    check_pods(manifests)
    assert {m["kind"] for m in manifests}.isdisjoint(CUSTOM)


def test_the_schemas_are_strict() -> None:
    job = copy.deepcopy(only(of_rendering("base"), "Job"))
    job["spec"]["podFailurePolicies"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="podFailurePolicies"):
        kubernetes_validate.validate(job, VERSIONS[0], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_hold_by_every_schema_and_the_policy(overlay: str) -> None:
    manifests = of_overlay(overlay)
    check_schemas(manifests)
    check_pods(manifests)


@pytest.mark.parametrize(("component", "overlay"), PAIRS)
def test_components_hold_by_every_schema_and_the_policy(
    component: str, overlay: str, tmp_path: Path
) -> None:
    manifests = with_component(component, overlay, tmp_path)
    check_schemas(manifests)
    check_pods(manifests)
    assert manifests != of_overlay(overlay), "the component changes nothing"


def test_every_component_is_named_on_the_page() -> None:
    page = (committed.K8S.parent / "docs" / "operate.md").read_text()
    assert [name for name in COMPONENTS if f"`{name}`" not in page] == []


def test_apply_k_and_render_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`kubectl apply -k FOLDER` and `sdpo render ... | kubectl apply -f -`, of the same words."""
    words = ["k8s", "experiment=quickstart"]
    assert main([*words, "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "secret generic verifier-token" in printed.err
    from tests.rendering.kustomize import kustomize

    def by_name(manifests: Iterable[Any]) -> dict[tuple[str, str], Any]:
        return {(m["kind"], m["metadata"]["name"]): m for m in manifests}

    assert by_name(kustomize(tmp_path)) == by_name(yaml.safe_load_all(printed.out))


def _layers(manifests: list[Manifest]) -> set[str]:
    command, *words = main_container(only(manifests, "Deployment"))["args"][1:]
    assert command == "serve"
    return set(compose(ServiceConfig, words).sandbox.minimum_layers)


@pytest.mark.parametrize(
    ("component", "lacks"),
    [("user-namespaces", set()), ("gvisor", {"landlock", "uts"})],
)
def test_isolating_components_raise_the_minimum(
    component: str, lacks: set[str], tmp_path: Path
) -> None:
    layers = _layers(with_component(component, "overlays/one-node", tmp_path))
    of_namespaces = {"user", "pid", "net", "mount", "ipc", "uts", "private_root", "private_tmp"}
    assert layers == {*RESTRICTED_LAYERS, *of_namespaces} - lacks
    assert layers <= LAYERS.keys()


def test_a_job_set_holds_the_job_and_the_job_is_gone(tmp_path: Path) -> None:
    manifests = with_component("jobset", "overlays/multi-node", tmp_path)
    assert [m for m in manifests if m["kind"] == "Job"] == []
    job_set = only(manifests, "JobSet")
    inner = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    job = only(of_overlay("overlays/multi-node"), "Job")
    assert inner == job["spec"] | {"backoffLimit": 0}
    assert job_set["metadata"]["name"] == job["metadata"]["name"]


@pytest.mark.parametrize(
    ("component", "kind"),
    [("autoscale", "HorizontalPodAutoscaler"), ("autoscale-keda", "ScaledObject")],
)
def test_an_autoscaler_names_the_verifiers_and_owns_their_number(
    component: str, kind: str, tmp_path: Path
) -> None:
    manifests = with_component(component, "overlays/multi-node", tmp_path)
    deployment = only(manifests, "Deployment")
    assert only(manifests, kind)["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]


def test_the_scrape_objects_are_in_the_namespace_of_the_run(tmp_path: Path) -> None:
    manifests = with_component("pod-monitor", "overlays/multi-node", tmp_path)
    for kind in ("PodMonitor", "PrometheusRule"):
        assert only(manifests, kind)["metadata"]["namespace"] == "sdpo"
    monitor, deployment = only(manifests, "PodMonitor")["spec"], only(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert "namespaceSelector" not in monitor  # pods of its own namespace


def test_kueue_finds_a_suspended_job_with_its_queue(tmp_path: Path) -> None:
    job = only(with_component("kueue", "overlays/multi-node", tmp_path), "Job")
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "sdpo"


def test_the_old_clusters_overlay_has_nothing_that_it_does_not_know() -> None:
    manifests = of_overlay("overlays/end-to-end")
    job = only(manifests, "Job")["spec"]
    assert {"completionMode", "podFailurePolicy", "podReplacementPolicy"}.isdisjoint(job)
    assert "PodDisruptionBudget" not in {m["kind"] for m in manifests}
