"""What every pod has in common, so that each passes the policy "restricted" of pod security:

an ordinary user, a read-only root, no capability, no token of the API server; what it writes goes
to folders that are named here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]

APPLICATION = "sdpo-megatron"
USER = 10001  # of the images (Dockerfile)

RUNS, MODELS, DATA = "/runs", "/models", "/data"
CLAIMS = {RUNS: "runs", MODELS: "models", DATA: "data"}
"""Folders in pods, and the claims that are mounted there."""
TOKEN_SECRET, TOKEN_FOLDER = "verifier-token", "/etc/sdpo/verifier"
TOKEN_FILE = f"{TOKEN_FOLDER}/token"


def labels(run: str, component: str) -> dict[str, str]:
    """The labels by which pods are selected: the run's name, and trainer, engine or verifier."""
    return {
        "app.kubernetes.io/name": APPLICATION,
        "app.kubernetes.io/instance": run,
        "app.kubernetes.io/component": component,
    }


def named(
    api_version: str, kind: str, name: str, namespace: str | None, tags: Mapping[str, str]
) -> Manifest:
    """The head of an object."""
    metadata: Manifest = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    metadata["labels"] = dict(tags)
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


@dataclass(frozen=True)
class Folder:
    """A folder of a container: what is mounted there.

    Attributes:
        path: In the container.
        volume: The volume's source, as in a pod's spec.
        read_only: For this container.
    """

    path: str
    volume: Manifest
    read_only: bool = False

    @property
    def name(self) -> str:
        """Of the volume: the path with dashes."""
        return self.path.strip("/").replace("/", "-")

    def mount(self) -> Manifest:
        """The entry of ``volumeMounts``."""
        read_only = {"readOnly": True} if self.read_only else {}
        return {"name": self.name, "mountPath": self.path, **read_only}


def claim(path: str, *, read_only: bool = False) -> Folder:
    """The claim that belongs to `path`."""
    return Folder(path, {"persistentVolumeClaim": {"claimName": CLAIMS[path]}}, read_only)


def scratch(size_gib: int) -> Folder:
    """Temporary files and compiled kernels; gone with the pod."""
    return Folder("/tmp", {"emptyDir": {"sizeLimit": f"{size_gib}Gi"}})


def shared_memory(size_gib: int) -> Folder:
    """The default of 64 MiB is too small for NCCL, gloo and SGLang."""
    return Folder("/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": f"{size_gib}Gi"}})


def token() -> Folder:
    """The bearer token of the verifiers. The Secret is made by hand: it belongs in no file."""
    return Folder(
        TOKEN_FOLDER, {"secret": {"secretName": TOKEN_SECRET, "defaultMode": 0o440}}, True
    )


def resources(cpus: int, memory_gib: int, gpus: int = 0) -> Manifest:
    """Requests and limits. No limit of CPUs: it would slow a pod down beside idle cores."""
    devices = {"nvidia.com/gpu": gpus} if gpus else {}
    memory = {"memory": f"{memory_gib}Gi"}
    return {"requests": {"cpu": str(cpus), **memory, **devices}, "limits": {**memory, **devices}}


def container(
    name: str,
    image: str,
    folders: Sequence[Folder],
    *,
    environment: Mapping[str, str] | None = None,
    **more: Any,
) -> Manifest:
    """A container as the policy "restricted" wants it, with a read-only root besides."""
    variables = {"HOME": "/tmp", **(environment or {})}
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        **more,
        "env": [
            {"name": key, "valueFrom" if isinstance(value, dict) else "value": value}
            for key, value in variables.items()
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [folder.mount() for folder in folders],
    }


def pod(
    tags: Mapping[str, str],
    containers: Sequence[Manifest],
    folders: Sequence[Folder],
    *,
    account: str,
    priority: str,
    gpus: bool = False,
    **more: Any,
) -> Manifest:
    """A pod template.

    Args:
        account: Service account; it has no token and no right.
        priority: Priority class.
        gpus: Whether it may run on machines that are kept for GPU work.
    """
    spec: Manifest = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "priorityClassName": priority,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **more,
    }
    if gpus:
        spec["tolerations"] = [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
    spec["containers"] = list(containers)
    spec["volumes"] = [{"name": folder.name, **folder.volume} for folder in folders]
    return {"metadata": {"labels": dict(tags)}, "spec": spec}


def spread(tags: Mapping[str, str]) -> list[Manifest]:
    """Over machines as evenly as they allow, so that one machine's loss takes few."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(tags)},
        }
    ]


def headless_service(
    name: str, namespace: str, tags: Mapping[str, str], ports: Mapping[str, int], *, all_pods: bool
) -> Manifest:
    """A name for the pods themselves.

    Args:
        all_pods: Also those that are not ready: ranks and engines must be found while they start.
    """
    unready = {"publishNotReadyAddresses": True} if all_pods else {}
    numbers = [{"name": key, "port": port} for key, port in ports.items()]
    return named("v1", "Service", name, namespace, tags) | {
        "spec": {
            "clusterIP": "None",
            **unready,
            "selector": dict(tags),
            **({"ports": numbers} if numbers else {}),
        }
    }


def stateful_set(
    name: str, namespace: str, tags: Mapping[str, str], replicas: int, template: Manifest
) -> Manifest:
    """Pods that keep their names, started side by side; a Service of the same name is theirs."""
    return named("apps/v1", "StatefulSet", name, namespace, tags) | {
        "spec": {
            "serviceName": name,
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": dict(tags)},
            "template": template,
        }
    }


def disruption_budget(name: str, namespace: str, tags: Mapping[str, str]) -> Manifest:
    """Drains take one pod at a time."""
    return named("policy/v1", "PodDisruptionBudget", name, namespace, tags) | {
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": dict(tags)}}
    }
