"""Every set of manifests that the repository offers: overlays, and components on top of them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sdpo_megatron.rendering.cli import rendered
from sdpo_megatron.rendering.committed import COMMITTED, K8S
from tests.rendering.kustomize import kustomize

Manifest = dict[str, Any]

OVERLAYS = ("base", *sorted(f"overlays/{path.name}" for path in (K8S / "overlays").iterdir()))
COMPONENTS = tuple(sorted(path.name for path in (K8S / "components").iterdir()))
_OF_TRAINING = ("overlays/one-node", "overlays/multi-node")
APPLICABLE: Mapping[str, tuple[str, ...]] = {
    "gvisor": (*_OF_TRAINING, "overlays/verify-batch"),
    "user-namespaces": (*_OF_TRAINING, "overlays/verify-batch"),
    "kueue": (*_OF_TRAINING, "overlays/verify-batch"),
}
"""Where a component makes sense; those that are not named, on training."""
PAIRS = [
    (component, overlay)
    for component in COMPONENTS
    for overlay in APPLICABLE.get(component, _OF_TRAINING)
]


def of_overlay(name: str) -> list[Manifest]:
    """The manifests of an overlay."""
    return kustomize(K8S / name)


def with_component(component: str, overlay: str, folder: Path) -> list[Manifest]:
    """The manifests of an overlay with a component, by a kustomization in `folder`."""

    def reach(path: str) -> str:  # kustomize takes relative paths alone
        return os.path.relpath((K8S / path).resolve(), folder.resolve())

    made = {
        "resources": [reach(overlay)],
        "components": [reach(f"components/{component}")],
    }
    (folder / "kustomization.yaml").write_text(yaml.dump(made))
    return kustomize(folder)


def of_rendering(folder: str) -> list[Manifest]:
    """What the renderer says of a folder of `COMMITTED`; needs no kubectl."""
    files = rendered(shlex.split(COMMITTED[folder]))
    return [manifest for manifests in files.values() for manifest in manifests]


def only(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The one object of `kind`, with `name` in its name."""
    (found,) = [m for m in manifests if m["kind"] == kind and name in m["metadata"]["name"]]
    return found


def main_container(workload: Manifest) -> Manifest:
    """The first container of a workload's pods."""
    container: Manifest = workload["spec"]["template"]["spec"]["containers"][0]
    return container
