"""Renderings made fit for the test's one old machine, by the patches of the end-to-end overlay."""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from sdpo_megatron.rendering.cli import rendered
from sdpo_megatron.rendering.committed import K8S
from sdpo_megatron.rendering.manifests import as_folder, write_folder
from tests.cluster import cluster
from tests.cluster.indexed import plain_jobs
from tests.rendering.kustomize import kustomize

OVERLAY = K8S / "overlays/end-to-end"
_OF_OLD_JOBS = "old-job.yaml"
Manifest = dict[str, Any]


def placed(arguments: str, folder: Path) -> list[Manifest]:
    """The manifests of `sdpo render ARGUMENTS`, Indexed Jobs by their stand-in."""
    shutil.copytree(OVERLAY, folder, ignore=shutil.ignore_patterns("rendered"))
    write_folder(as_folder(rendered(shlex.split(arguments)), "of a test"), folder / "rendered")
    kustomization = folder / "kustomization.yaml"
    made = yaml.safe_load(kustomization.read_text())
    made["patches"] = [p for p in made["patches"] if p.get("path") != _OF_OLD_JOBS]
    kustomization.write_text(yaml.safe_dump(made))
    return [
        one
        for manifest in kustomize(folder)
        for one in (plain_jobs(manifest) if manifest["kind"] == "Job" else [manifest])
    ]


def apply_ground(manifests: Iterable[Manifest], runs: Path) -> None:
    """What must be there first: the namespace, the volume, the token."""
    first = [m for m in manifests if m["kind"] == "Namespace"]
    made = {"apiVersion": "v1", "kind": "List", "items": [*first, _volume(runs)]}
    cluster.call("kubectl", "apply", "-f", "-", text=json.dumps(made))
    cluster.apply([_token()])


def delete(manifests: Iterable[Manifest]) -> None:
    """kubectl delete -f, and the volume, which is the test's own."""
    text = yaml.safe_dump_all(list(manifests))
    cluster.call("kubectl", "delete", "-f", "-", "--ignore-not-found", text=text, timeout_s=300.0)
    delete_volume()


def delete_overlay() -> None:
    """kubectl delete -k, and the volume."""
    words = ("delete", "-k", str(OVERLAY), "--ignore-not-found")
    cluster.call("kubectl", *words, timeout_s=300.0)
    delete_volume()


def delete_volume() -> None:
    """The test's own."""
    cluster.call("kubectl", "delete", "persistentvolume", "end-to-end-runs", "--ignore-not-found")


def left() -> list[str]:
    """What is still there of ours, of any namespace."""
    kinds = "all,configmaps,secrets,serviceaccounts,persistentvolumeclaims,networkpolicies"
    ours = ("-l", "app.kubernetes.io/name=sdpo-megatron", "-o", "name")
    found = cluster.call("kubectl", "get", kinds, "-A", *ours).split()
    return found + cluster.call("kubectl", "get", "namespaces,priorityclasses", *ours).split()


def _volume(runs: Path) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "end-to-end-runs"},
        "spec": {
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "hostPath": {"path": str(runs)},
        },
    }


def _token() -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "verifier-token", "namespace": cluster.NAMESPACE},
        "stringData": {"token": secrets.token_hex(32)},
    }
