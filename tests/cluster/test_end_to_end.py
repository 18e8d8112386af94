"""The whole loop in restricted pods of a real Kubernetes, and what happens when pods go.

`make cluster-test`; see tests/cluster/cluster.py for what it needs. One run of five steps,
disturbed on its way: each test looks at another side of it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.exit_codes import STOPPED
from sdpo_megatron.rendering.committed import K8S
from sdpo_megatron.rendering.verifiers import RESTRICTED_LAYERS
from tests.cluster import cluster
from tests.rendering.kustomize import kustomize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not cluster.cluster_command(),
        reason=f"NO CLUSTER: {cluster.VARIABLE} must name a command that brings one up",
    ),
]
REPOSITORY = K8S.parent
STEPS = 5
_MINUTES = 60.0


@dataclass
class Seen:
    """What was seen while the run went on.

    Attributes:
        attacks: By program, judged in a verifier pod: whether right, what it was told, the layers.
        before_engines: Phase of the trainer pod when the engines were applied.
        failed_before: Pods that had failed before anything was deleted.
        stopped_code: Exit code of the deleted trainer pod.
        complete_at_stop: Whether the Job called itself complete then.
        steps_at_stop: Steps done by then.
        running_together: Whether the new pod was there before the old one had ended.
        rows: Of metrics.jsonl.
        swaps: Of swaps.jsonl.
        log: Of the second trainer pod.
        tokens: Of the lease folder.
        left: What `kubectl delete -k` left.
    """

    attacks: dict[str, tuple[bool, str | None, list[str]]] = field(default_factory=dict)
    before_engines: str = ""
    failed_before: list[str] = field(default_factory=list)
    stopped_code: int = -1
    complete_at_stop: bool = True
    steps_at_stop: int = -1
    running_together: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)
    swaps: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""
    tokens: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def running() -> Iterator[Path]:
    """A cluster with the images; gives the folder behind the claim of runs."""
    folder = cluster.folder()
    subprocess.run([REPOSITORY / "tests/cluster/images.sh", folder], check=True)
    cluster.call("up", timeout_s=300.0)
    try:
        for name in ("sdpo-verifier", "sdpo-trainer"):
            archive = str(folder / f"{name}.tar")
            cluster.call("ctr", "images", "import", archive, timeout_s=600.0)
        runs = folder / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        runs.mkdir()
        os.chown(runs, 10001, 10001)  # a folder of the host ignores fsGroup
        yield runs
    finally:
        cluster.call("down", timeout_s=180.0)


@pytest.fixture(scope="module")
def seen(running: Path) -> Seen:
    """The run, from trainer without engines to Complete."""
    manifests = kustomize(K8S / "overlays/end-to-end")
    seen = Seen()
    first = [m for m in manifests if m["kind"] in ("Namespace", "PriorityClass")]
    cluster.call("kubectl", "apply", "-f", "-", text=json.dumps(_list([*first, _volume(running)])))
    cluster.apply([_token()])
    cluster.apply([m for m in manifests if m["kind"] != "StatefulSet" and m not in first])

    def trainer_waits() -> bool:
        for pod in cluster.pods("trainer"):
            seen.before_engines = pod["status"]["phase"]
            if "engines: 0 of" in _log(pod) or seen.before_engines == "Failed":
                return True
        return False

    cluster.wait("the trainer waits for engines", trainer_waits, 5 * _MINUTES)
    seen.attacks = _attack()
    cluster.apply([m for m in manifests if m["kind"] == "StatefulSet"])
    run = running / "end-to-end"
    cluster.wait("two steps", lambda: len(_lines(run / "metrics.jsonl")) >= 2, 12 * _MINUTES)
    everyone = [pod for who in ("trainer", "engine", "verifier") for pod in cluster.pods(who)]
    seen.failed_before = [
        pod["metadata"]["name"]
        for pod in everyone
        if pod["status"]["phase"] == "Failed"
        or any(s["restartCount"] for s in pod["status"].get("containerStatuses", []))
    ]
    _delete_trainer(seen, run)
    enough = seen.steps_at_stop + 1
    cluster.wait(
        "a step of the new pod", lambda: len(_lines(run / "metrics.jsonl")) >= enough, 10 * _MINUTES
    )
    for component in ("verifier", "engine"):
        (pod, *_) = cluster.pods(component)
        cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    cluster.wait("Complete", lambda: "Complete" in _conditions(), 12 * _MINUTES)
    seen.rows, seen.swaps = _lines(run / "metrics.jsonl"), _lines(run / "swaps.jsonl")
    seen.log = _log(cluster.pods("trainer")[-1])
    seen.tokens = sorted(path.name for path in (run / "lease").iterdir())
    cluster.kubectl("delete", "-k", str(K8S / "overlays/end-to-end"), "--ignore-not-found")
    seen.left = cluster.call(
        "kubectl", "get", "all,configmaps,persistentvolumeclaims,networkpolicies", "-A",
        "-l", "app.kubernetes.io/name=sdpo-megatron", "-o", "name",
    ).split()  # fmt: skip
    return seen


def _attack() -> dict[str, tuple[bool, str | None, list[str]]]:
    """What the service of a verifier pod says to programs that want out."""
    program = (REPOSITORY / "tests/cluster/attacks.py").read_text()
    cluster.kubectl("rollout", "status", "deployment", "end-to-end-verifier", "--timeout=120s")
    name = cluster.pods("verifier")[0]["metadata"]["name"]
    said = cluster.kubectl("exec", "-i", name, "--", "python3", "-", text=program)
    told: dict[str, tuple[bool, str | None, list[str]]] = json.loads(said)
    return told


def _delete_trainer(seen: Seen, run: Path) -> None:
    """As a drain does; a finalizer keeps the pod's object until its exit code was read."""
    (pod,) = cluster.pods("trainer")
    name = pod["metadata"]["name"]

    def finalizers(value: list[str]) -> None:
        patch = json.dumps({"metadata": {"finalizers": value}})
        cluster.kubectl("patch", "pod", name, "--type=merge", "-p", patch)

    finalizers(["sdpo.test/read-the-exit-code"])
    cluster.kubectl("delete", "pod", name, "--wait=false")

    def ended() -> bool:
        found = {p["metadata"]["name"]: p for p in cluster.pods("trainer")}
        code = cluster.exit_code(found[name])
        others = [p for n, p in found.items() if n != name and p["status"]["phase"] == "Running"]
        seen.running_together |= code is None and bool(others)
        if code is not None:
            seen.stopped_code = code
        return code is not None

    cluster.wait("the deleted pod ends", ended, 3 * _MINUTES, every_s=0.3)
    seen.complete_at_stop = "Complete" in _conditions()
    seen.steps_at_stop = len(_lines(run / "metrics.jsonl"))
    finalizers([])


def _conditions() -> list[str]:
    (job,) = cluster.objects("jobs")
    return [c["type"] for c in job["status"].get("conditions", []) if c["status"] == "True"]


def _log(pod: dict[str, Any]) -> str:
    try:
        return cluster.kubectl("logs", pod["metadata"]["name"])
    except AssertionError:  # not started yet
        return ""


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _list(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _volume(runs: Path) -> dict[str, Any]:
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


def _token() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "verifier-token", "namespace": cluster.NAMESPACE},
        "stringData": {"token": secrets.token_hex(32)},
    }


def test_a_trainer_before_its_engines_waits_and_nothing_fails(seen: Seen) -> None:
    assert seen.before_engines == "Running"
    assert seen.failed_before == []


def test_in_a_verifier_pod_programs_reach_nothing(seen: Seen) -> None:
    judged = {name: (success, layers) for name, (success, _, layers) in seen.attacks.items()}
    layers = list(RESTRICTED_LAYERS)
    assert judged.pop("honest") == (True, layers)
    assert judged == dict.fromkeys(judged, (False, layers))
    refused = ("Permission denied", "Operation not permitted", "Read-only file system")
    told = {name: feedback or "" for name, (_, feedback, _) in seen.attacks.items()}
    del told["honest"]
    assert {n: t for n, t in told.items() if not any(reason in t for reason in refused)} == {}


def test_a_deleted_trainer_stops_with_a_checkpoint_and_the_job_goes_on(seen: Seen) -> None:
    assert seen.stopped_code == STOPPED
    assert not seen.complete_at_stop
    assert 2 <= seen.steps_at_stop < STEPS


def test_the_job_is_complete_after_the_last_step_and_each_was_taken_once(seen: Seen) -> None:
    assert [row["step"] for row in seen.rows] == list(range(1, STEPS + 1))
    assert re.search(rf"after step {STEPS}\b", seen.log)


def test_there_was_one_writer_after_the_other(seen: Seen) -> None:
    """A token for each trainer pod, all given back."""
    assert seen.tokens == ["000002.released"]


def test_engines_served_every_version_after_theirs_were_deleted(seen: Seen) -> None:
    versions = {swap["version"] for swap in seen.swaps}
    assert versions == set(range(STEPS + 1))
    # What was published again after the resume is what it was before.
    assert len({(swap["version"], swap["checksum"]) for swap in seen.swaps}) == len(versions)


def test_delete_k_leaves_nothing(seen: Seen) -> None:
    assert seen.left == []
