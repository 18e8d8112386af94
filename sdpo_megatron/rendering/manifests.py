"""All manifests of a run, or of a batch, by the file that holds them; as YAML, or as a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.rendering import batch as batches
from sdpo_megatron.rendering import in_cluster, shared
from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.engines import engines
from sdpo_megatron.rendering.network import network
from sdpo_megatron.rendering.pods import Manifest
from sdpo_megatron.rendering.size import Size
from sdpo_megatron.rendering.trainer import trainer
from sdpo_megatron.rendering.verifiers import verifiers
from sdpo_megatron.rendering.workers import workers

Files = dict[str, list[Manifest]]
KUSTOMIZATION = "kustomization.yaml"


def of_run(config: TrainConfig, cluster: Cluster, *, with_shared: bool = True) -> Files:
    """What `sdpo render k8s` writes, in the order in which it is applied.

    Args:
        with_shared: Whether what all runs of a namespace share is among them. Without it the
            manifests of a run can be deleted, and its run folder stays.

    Raises:
        ConfigError: Something in `config` has no place in pods.
    """
    placed = in_cluster.in_cluster(config, cluster)
    size = Size.of(config, cluster)
    ground = _ground(cluster, in_cluster.claims_of(placed)) if with_shared else {}
    some_workers = {"workers.yaml": found} if (found := workers(placed, cluster)) else {}
    return ground | {
        "network.yaml": network(placed, cluster, size),
        "verifiers.yaml": verifiers(placed, cluster),
        "engines.yaml": engines(placed, cluster, size),
        **some_workers,
        "trainer.yaml": trainer(placed, cluster, size),
    }


def of_batch(wanted: batches.Batch, cluster: Cluster, *, with_shared: bool = True) -> Files:
    """What `sdpo render k8s-verify-batch` writes; see `of_run`."""
    ground = _ground(cluster, batches.claims_of(wanted)) if with_shared else {}
    return ground | {"verify-batch.yaml": batches.batch(wanted, cluster)}


def _ground(cluster: Cluster, folders: list[str]) -> Files:
    return {
        "shared.yaml": [
            shared.namespace(cluster),
            shared.deny_all(cluster),
            *shared.priorities(),
            *shared.accounts(cluster),
            *shared.claims(cluster, folders),
        ]
    }


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such, and no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(manifests: Iterable[Manifest]) -> str:
    """One document for each."""
    return yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=100)


def as_stream(files: Files) -> str:
    """For ``kubectl apply -f -``."""
    return as_yaml(manifest for manifests in files.values() for manifest in manifests)


def as_folder(files: Files, note: str) -> Mapping[str, str]:
    """For ``kubectl apply -k``: the text of each file, a kustomization among them.

    Args:
        note: A comment at the head of each.
    """
    head = "".join(f"# {line}\n" for line in note.splitlines())
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    texts = {name: head + as_yaml(manifests) for name, manifests in files.items()}
    return texts | {KUSTOMIZATION: head + yaml.dump(kustomization, sort_keys=False)}


def write_folder(texts: Mapping[str, str], folder: Path) -> None:
    """Write `as_folder` to `folder`, which is made where it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
