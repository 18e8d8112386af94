"""What all runs of a namespace share. It outlives a run: deleting the claims deletes every run."""

from __future__ import annotations

from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.pods import APPLICATION, CLAIMS, RUNS, Manifest, named

_TAGS = {"app.kubernetes.io/name": APPLICATION}
_PRIORITIES = {
    "trainer": (1_000, "A trainer that is pushed out stops a run"),
    "engine": (900, "A run goes on with fewer engines"),
    "worker": (700, "Other workers make the groups of one that goes"),
    "verifier": (500, "Verifiers are stateless and come back in seconds"),
}


def namespace(cluster: Cluster) -> Manifest:
    """The namespace, which refuses pods below the policy "restricted"."""
    restricted = {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")
    }
    return named("v1", "Namespace", cluster.namespace, None, _TAGS | restricted)


def accounts(cluster: Cluster) -> list[Manifest]:
    """A service account for each kind of pod: no token, no right, but a name in audit logs."""
    return [
        named("v1", "ServiceAccount", f"sdpo-{who}", cluster.namespace, _TAGS)
        | {"automountServiceAccountToken": False}
        for who in _PRIORITIES
    ]


def priorities() -> list[Manifest]:
    """Who gives way when a machine is full."""
    return [
        named("scheduling.k8s.io/v1", "PriorityClass", f"sdpo-{who}", None, _TAGS)
        | {"value": value, "globalDefault": False, "description": f"{why}."}
        for who, (value, why) in _PRIORITIES.items()
    ]


def claims(cluster: Cluster, folders: list[str]) -> list[Manifest]:
    """The claims behind `folders` of the pods."""
    return [_claim(cluster, folder) for folder in folders]


def _claim(cluster: Cluster, folder: str) -> Manifest:
    size = cluster.runs_gib if folder == RUNS else cluster.inputs_gib
    spec: Manifest = {
        "accessModes": [cluster.access_mode],
        "resources": {"requests": {"storage": f"{size}Gi"}},
    }
    if cluster.storage_class:
        spec["storageClassName"] = cluster.storage_class
    made = named("v1", "PersistentVolumeClaim", CLAIMS[folder], cluster.namespace, _TAGS)
    return made | {"spec": spec}


def deny_all(cluster: Cluster) -> Manifest:
    """Nobody talks to anybody, but for what another policy allows."""
    return named("networking.k8s.io/v1", "NetworkPolicy", "deny-all", cluster.namespace, _TAGS) | {
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    }
