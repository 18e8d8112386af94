"""The policies allow exactly the arrows of docs/operate.md."""

from __future__ import annotations

import pytest

from tests.rendering.arrows import End, allowed
from tests.rendering.k8s_folder import Manifest, of_rendering

PORTS = (53, 80, 443, 6443, 9400, 9401, 9402, 29500, 29501, 30000, 45678)
OUTSIDE = [
    End.of("prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"}),
    End.of("grafana", "monitoring", {"app.kubernetes.io/name": "grafana"}),
    End.of("dns", "kube-system", {"k8s-app": "kube-dns"}),
    End.of("api server", "kube-system", {"component": "kube-apiserver"}),
    End.of("internet", "", {}),
    End.of("neighbour", "sdpo", {"app.kubernetes.io/component": "trainer"}),
    End.of("imposter", "other", {"app.kubernetes.io/name": "prometheus"}),
]
ARROWS = {
    ("trainer", "engine", 30000),
    ("trainer", "verifier", 9401),
    ("trainer", "dns", 53),
    ("prometheus", "trainer", 9400),
    ("prometheus", "engine", 30000),
    ("prometheus", "verifier", 9401),
}
OF_WORKERS = {
    ("worker", "trainer", 9402),
    ("worker", "engine", 30000),
    ("worker", "verifier", 9401),
    ("worker", "dns", 53),
}


def _arrows(manifests: list[Manifest]) -> set[tuple[str, str, int]]:
    """Those that begin or end at a pod of ours."""
    ours = []
    for manifest in manifests:
        if "template" in manifest.get("spec", {}):
            labels = manifest["spec"]["template"]["metadata"]["labels"]
            name = labels["app.kubernetes.io/component"]
            ours.append(End.of(name, manifest["metadata"]["namespace"], labels))
    policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
    names = {end.name for end in ours}
    found = allowed(policies, [*ours, *OUTSIDE], PORTS)
    return {arrow for arrow in found if {arrow[0], arrow[1]} & names}


@pytest.mark.parametrize("folder", ["base", "overlays/one-node/rendered"])
def test_one_trainer_pod(folder: str) -> None:
    assert _arrows(of_rendering(folder)) == ARROWS


def test_a_pod_of_rollout_workers_talks_to_three_others() -> None:
    assert _arrows(of_rendering("overlays/end-to-end/rendered")) == ARROWS | OF_WORKERS


def test_several_trainer_pods_talk_to_each_other_on_every_port() -> None:
    among = {("trainer", "trainer", port) for port in PORTS}
    found = _arrows(of_rendering("overlays/multi-node/rendered"))
    assert found == ARROWS | OF_WORKERS | among


def test_judging_a_file_talks_to_nobody() -> None:
    assert _arrows(of_rendering("overlays/verify-batch/rendered")) == set()


def test_without_the_policies_everything_passes() -> None:
    """The eyes of this test."""
    manifests = [m for m in of_rendering("base") if m["kind"] != "NetworkPolicy"]
    assert ("verifier", "internet", 443) in _arrows(manifests)
