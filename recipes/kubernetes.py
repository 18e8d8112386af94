"""A recipe on Kubernetes: the manifests that `sdpo render k8s` writes for its configuration."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.hardware import Machines


def write_manifests(config: TrainConfig, folder: Path, machines: Machines | None = None) -> None:
    """A folder for ``kubectl apply -k``.

    Raises:
        ConfigError: This version renders none, or something in `config` has no place in pods.
    """
    if importlib.util.find_spec("sdpo_megatron.rendering") is None:
        raise ConfigError(
            f"manifests={folder}: this version cannot render manifests; use run.executor=local or "
            "run.executor=slurm"
        )
    from sdpo_megatron.rendering.cluster import (  # type: ignore[import-not-found,unused-ignore]
        Cluster,
    )
    from sdpo_megatron.rendering.manifests import (  # type: ignore[import-not-found,unused-ignore]
        as_folder,
        of_run,
        write_folder,
    )

    cluster = Cluster() if machines is None else Cluster(gpus_per_node=machines.gpu.per_node)
    files = of_run(config, cluster)
    write_folder(
        as_folder(files, "Written by a recipe. Do not edit; patch it with kustomize."), folder
    )
