"""The configuration that pods read."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpo_megatron.config import load, load_saved
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields.reading import to_plain
from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.in_cluster import in_cluster
from tests.rendering.k8s_folder import of_rendering, only

QUICKSTART = ["experiment=quickstart"]


def test_the_config_map_is_what_train_config_reads(tmp_path: Path) -> None:
    data = only(of_rendering("base"), "ConfigMap")["data"]
    (tmp_path / "config.yaml").write_text(data["config.yaml"])
    config = load_saved(tmp_path / "config.yaml")
    assert config.run.folder == "/runs/quickstart"
    assert config.model.path == "/runs/models/smollm2-135m-instruct"
    assert config.run.metrics_address == "0.0.0.0"
    assert config.rollout.engine.urls == ("dns+http://quickstart-engine:30000",)
    assert config.judge.where == "endpoints"
    assert config.judge.endpoints == ("dns+http://quickstart-verifier:9401",)
    assert config.judge.token_file == "/etc/sdpo/verifier/token"
    assert config.optimizer.lr == 5e-5


def test_nothing_else_is_changed() -> None:
    """What a run computes does not depend on where it runs."""
    before, after = load(QUICKSTART), in_cluster(load(QUICKSTART), Cluster())
    moved = {"run", "model", "rollout", "judge"}
    old, new = to_plain(before), to_plain(after)
    assert {key for key in old if old[key] != new[key]} == moved
    assert {k for k in old["run"] if old["run"][k] != new["run"][k]} == {
        "folder", "metrics_address", "lease_wait_s", "threads_per_rank",
    }  # fmt: skip
    assert {k for k in old["rollout"] if old["rollout"][k] != new["rollout"][k]} == {"engine"}


def test_a_new_pod_waits_for_the_last_checkpoint_of_the_old_one() -> None:
    cluster = Cluster(checkpoint_s=100.0)
    assert cluster.grace_s >= 2 * cluster.checkpoint_s
    assert in_cluster(load(QUICKSTART), cluster).run.lease_wait_s > cluster.grace_s


def test_as_many_open_requests_as_there_are_workers() -> None:
    cluster = Cluster(verifiers=16, verifier_workers=8)
    assert in_cluster(load(QUICKSTART), cluster).judge.workers == 128
    asked = load([*QUICKSTART, "judge.workers=300"])
    assert in_cluster(asked, cluster).judge.workers == 300


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.name=My Run", "run.name=My Run: it names the objects"),
        (f"run.name={'x' * 41}", "at most 40"),
        ("model.path=/home/me/model", "model.path=/home/me/model: pods see /runs"),
        ("model.path=/models-of-mine/x", "model.path=/models-of-mine/x: pods see /runs"),
        ("run.folder=/models/run", "run.folder=/models/run"),
        ("run.folder=../models/run", "run.folder=../models/run"),
        ("model.path=/models/../etc", "model.path=/models/../etc"),
        ("task.path=questions.jsonl", "task.path=questions.jsonl: pods see"),
        ("validation.path=/home/me/questions", "validation.path=/home/me/questions: pods see"),
        ("run.metrics_port=0", "run.metrics_port=0"),
    ],
)
def test_what_pods_cannot_be_told_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        in_cluster(load([*QUICKSTART, override]), Cluster())
    assert said in str(caught.value)


def test_every_mistake_is_told_at_once() -> None:
    config = load([*QUICKSTART, "run.name=A", "model.path=/x", "task.path=y"])
    with pytest.raises(ConfigError) as caught:
        in_cluster(config, Cluster())
    assert len(str(caught.value).splitlines()) == 3
