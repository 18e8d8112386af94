"""A recipe as manifests: what `sdpo render k8s` makes of the same configuration."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes import experiments
from recipes.kubernetes import write_manifests
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.hardware import Machines

RENDERS = importlib.util.find_spec("sdpo_megatron.rendering") is not None
MACHINES = Machines.of("h100", nodes=2, engine_nodes=1)


def written(folder: Path) -> dict[tuple[str, str], Any]:
    """By kind and name."""
    config = experiments.science(
        model_path="/models/Qwen3-8B",
        task_path="/data/sciknoweval",
        machines=MACHINES,
        overrides=["run.name=mine"],
    )
    write_manifests(config, folder, MACHINES)
    found = [doc for file in folder.glob("*.yaml") for doc in yaml.safe_load_all(file.read_text())]
    return {(doc["kind"], doc.get("metadata", {}).get("name", "")): doc for doc in found}


@pytest.mark.skipif(RENDERS, reason="this version renders manifests")
def test_a_version_without_manifests_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"this version cannot render manifests; use run\.executor"
    ):
        written(tmp_path / "run")


@pytest.mark.skipif(not RENDERS, reason="this version renders no manifests (sdpo render k8s)")
def test_pods_are_those_of_the_layout(tmp_path: Path) -> None:
    documents = written(tmp_path / "run")
    jobs = [doc["spec"] for (kind, _), doc in documents.items() if kind == "Job"]
    engines = [doc["spec"] for (kind, _), doc in documents.items() if kind == "StatefulSet"]
    assert [(job["completions"], job["completionMode"]) for job in jobs] == [(2, "Indexed")]
    assert [engine["replicas"] for engine in engines] == [8]
