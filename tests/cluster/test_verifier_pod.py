"""Inside a verifier pod: what its image holds, and how far programs get that want out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.rendering.committed import COMMITTED
from sdpo_megatron.rendering.verifiers import RESTRICTED_LAYERS
from tests.cluster import cluster
from tests.cluster.attacks import ATTACKS, HONEST, got_through, responses
from tests.cluster.conftest import made_runs
from tests.cluster.placed import Manifest, apply_ground, delete, placed
from tests.cluster.undisturbed import RENDERED

_HEAVY = ("torch", "transformers", "sglang", "megatron", "pandas", "pyarrow", "pip")
_REQUEST = """
import json, sys, urllib.request
token = open("/etc/sdpo/verifier/token").read().strip()
request = urllib.request.Request(
    "http://127.0.0.1:9401/v1/verify",
    sys.stdin.buffer.read(),
    {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
)
with urllib.request.urlopen(request, timeout=300) as answer:
    print(answer.read().decode())
"""
_PLACE = """
import importlib.util, json, os, sys
def writable(path):
    try:
        open(path + "/x", "w")
    except OSError as error:
        return error.strerror
    return "written"
print(json.dumps({
    "uid": os.getuid(),
    "heavy": [name for name in sys.argv[1:] if importlib.util.find_spec(name)],
    "root": {path: writable(path) for path in ("/", "/opt/sdpo", "/etc", "/home/sdpo")},
    "capabilities": [
        line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")
    ],
    "token": os.path.exists("/var/run/secrets/kubernetes.io"),
}))
"""


@pytest.fixture(scope="module")
def pod(
    image: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Manifest]:
    """A verifier that is ready; nothing else of a run."""
    image("verifier")
    everything = placed(COMMITTED[RENDERED], tmp_path_factory.mktemp("rendering") / "run")
    manifests = [m for m in everything if m["kind"] not in ("Job", "StatefulSet")]
    apply_ground(manifests, made_runs())
    try:
        cluster.apply(manifests)
        cluster.kubectl("rollout", "status", "deployment/end-to-end-verifier", "--timeout=120s")
        yield cluster.pods("verifier")[0]
    finally:
        delete(manifests)


@pytest.fixture(scope="module")
def verdicts(pod: Manifest) -> dict[str, dict[str, Any]]:
    """Of an honest response and of every attack, judged in one request."""
    said = cluster.inside(pod, "python", "-c", _REQUEST, text=json.dumps({"items": responses()}))
    return {result["id"]: result["verdict"] for result in json.loads(said)["results"]}


def test_the_image_is_small_and_its_user_can_do_little(pod: Manifest) -> None:
    found = json.loads(cluster.inside(pod, "python", "-c", _PLACE, *_HEAVY))
    assert found["uid"] == 10001
    assert found["heavy"] == []
    assert set(found["root"].values()) == {"Read-only file system"}
    assert set(found["capabilities"]) == {"0000000000000000"}
    assert not found["token"]


def test_the_active_layers_are_those_of_the_manifest(
    pod: Manifest, verdicts: dict[str, dict[str, Any]]
) -> None:
    (asked,) = [word for word in pod["spec"]["containers"][0]["args"] if "minimum_layers" in word]
    assert asked == f"sandbox.minimum_layers=[{','.join(RESTRICTED_LAYERS)}]"
    assert {tuple(verdict["layers"]) for verdict in verdicts.values()} == {RESTRICTED_LAYERS}


def test_an_honest_program_is_right_and_every_attack_is_refused(
    verdicts: dict[str, dict[str, Any]],
) -> None:
    assert verdicts[HONEST]["success"]
    assert verdicts.keys() == {HONEST, *ATTACKS}
    assert got_through(verdicts) == {}


def test_it_answers_nobody_without_the_token(pod: Manifest) -> None:
    code = _REQUEST.replace("{token}", "another")
    with pytest.raises(AssertionError, match="HTTP Error 401"):
        cluster.inside(pod, "python", "-c", code, text=json.dumps({"items": responses()[:1]}))


def test_a_batch_in_pods_judges_the_same_and_hides_the_runs(
    image: Callable[[str], None], tmp_path: Path
) -> None:
    """`sdpo verify batch`: two shards, whose pods have the claim of runs mounted."""
    image("verifier")
    runs = made_runs()
    (runs / "secret").write_text("the weights of another run")
    lines = [json.dumps(response) for response in responses()]
    (runs / "responses.jsonl").write_text("\n".join(lines) + "\n")
    arguments = (
        "k8s-verify-batch --responses=/runs/responses.jsonl --verdicts=/runs/verdicts "
        "--shards=2 --parallelism=2 --verifier-workers=1 --runs-gib=20"
    )
    manifests = placed(arguments, tmp_path / "batch")
    apply_ground(manifests, runs)
    try:
        cluster.apply(manifests)
        jobs = ("verdicts-0", "verdicts-1")

        def ended() -> bool:
            return all({"Complete", "Failed"} & set(cluster.conditions(job)) for job in jobs)

        cluster.wait("both shards end", ended, 300.0)
        assert [cluster.conditions(job) for job in jobs] == [["Complete"], ["Complete"]]
    finally:
        delete(manifests)
    parts = sorted((runs / "verdicts").rglob("*.jsonl*"))
    found = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    verdicts = {line["id"]: line["verdict"] for line in found}
    assert verdicts.keys() == {HONEST, *ATTACKS}
    assert verdicts[HONEST]["success"]
    assert {tuple(verdict["layers"]) for verdict in verdicts.values()} == {RESTRICTED_LAYERS}
    assert got_through(verdicts) == {}
    assert not (runs / "written").exists()
