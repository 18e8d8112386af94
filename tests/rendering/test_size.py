"""How many pods, of which size, for which layout."""

from __future__ import annotations

import re

import pytest

from sdpo_megatron.config import load
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.size import Size

MODEL = ["experiment=science", "model.path=/models/m", "task.path=/data/sciknoweval"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["experiment=quickstart"], Size(False, False, 1, 2, 1, 1)),
        (["experiment=quickstart", "run.device=auto"], Size(True, False, 1, 2, 1, 1)),
        ([*MODEL, "parallel.tensor=4", "rollout.engine.num_engines=4"],
         Size(True, True, 1, 4, 4, 1)),
        ([*MODEL, "parallel.tensor=8", "run.data_parallel=4"], Size(True, True, 4, 8, 8, 1)),
        ([*MODEL, "parallel.tensor=2", "parallel.pipeline=2", "run.data_parallel=3",
          "rollout.engine.num_engines=2", "rollout.engine.tp=4"], Size(True, True, 2, 6, 2, 4)),
        # 12 ranks in groups of 4: machines of 6 would tear a group apart
        ([*MODEL, "parallel.tensor=4", "parallel.pipeline=3"], Size(True, True, 3, 4, 8, 1)),
        ([*MODEL, "parallel.tensor=1", "parallel.sequence_parallel=false",
          "run.data_parallel=11"], Size(True, True, 11, 1, 8, 1)),
    ],
)  # fmt: skip
def test_machines_hold_whole_tensor_parallel_groups(overrides: list[str], expected: Size) -> None:
    assert Size.of(load(overrides), Cluster()) == expected


@pytest.mark.parametrize("key", ["parallel.tensor", "rollout.engine.tp"])
def test_what_must_fit_a_machine_and_does_not(key: str) -> None:
    config = load([*MODEL, "parallel.tensor=4", f"{key}=8"])
    with pytest.raises(ConfigError, match=re.escape(f"{key}=8: it must fit one machine")):
        Size.of(config, Cluster(gpus_per_node=4))


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"namespace": "My_Space"}, "namespace"),
        ({"trainer_image": "registry:5000/trainer"}, "trainer_image"),
        ({"serving_image": "serving:latest"}, "serving_image"),
        ({"checkpoint_s": 0.0}, "checkpoint_s"),
    ],
)
def test_what_a_cluster_cannot_be(given: dict[str, object], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Cluster(**given)  # type: ignore[arg-type]


def test_images_by_digest_and_by_tag() -> None:
    digest = f"r:5000/a@sha256:{'0' * 64}"
    assert Cluster(trainer_image=digest, serving_image="a:v1").trainer_image == digest
