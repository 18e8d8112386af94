"""The whole loop in restricted pods of a real Kubernetes, and what happens when pods go.

`make cluster-test`; see cluster.py for what it needs. One run of five steps, disturbed on its way:
each test looks at another side of it.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.exit_codes import STOPPED
from tests.cluster import cluster, watching
from tests.cluster.conftest import made_runs
from tests.cluster.placed import OVERLAY, apply_ground, delete_overlay, left
from tests.cluster.undisturbed import of_swaps
from tests.rendering.kustomize import kustomize

STEPS = 5
JOB = "end-to-end-trainer"
COMPONENTS = ("trainer", "engine", "verifier")
IMAGES = {"trainer": "trainer", "engine": "serving", "verifier": "verifier"}
"""The Dockerfile's target of each component."""
_OF_LEARNING = {
    "SdpoSuccessCollapse", "SdpoEntropyCollapse", "SdpoLengthCollapse", "SdpoTeacherMisleads",
    "SdpoTeacherPromptDoesNotHelp", "SdpoGradientSpike",
}  # fmt: skip
"""Alerts of which eight attempts a step may raise any by chance."""
_MINUTES = 60.0


@dataclass
class Seen:
    """What was seen while the run went on.

    Attributes:
        before_engines: Phase of the trainer pod when the engines were applied.
        failed_before: Pods that had failed before anything was deleted.
        up: What Prometheus knows of `up`, by component.
        runs: The label `run` of what it scraped.
        faulty_rules: Rules that it could not evaluate.
        firing: Alerts that fired in the healthy run.
        sick: Components whose image's own health check failed in their pod.
        stopped_code: Exit code of the deleted trainer pod.
        complete_at_stop: Whether the Job called itself complete then.
        steps_at_stop: Steps done by then.
        rows: Of metrics.jsonl.
        weights: The checksum by policy version.
        log: Of the second trainer pod.
        tokens: Of the lease folder.
        left: What `kubectl delete -k` left.
    """

    before_engines: str = ""
    failed_before: list[str] = field(default_factory=list)
    up: dict[str, float] = field(default_factory=dict)
    runs: set[str] = field(default_factory=set)
    faulty_rules: list[str] = field(default_factory=list)
    firing: list[str] = field(default_factory=list)
    sick: list[str] = field(default_factory=list)
    stopped_code: int = -1
    complete_at_stop: bool = True
    steps_at_stop: int = -1
    rows: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[int, str] = field(default_factory=dict)
    log: str = ""
    tokens: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def seen(image: Callable[[str], None]) -> Iterator[Seen]:
    """The run, from trainer without engines to Complete."""
    for name in ("verifier", "trainer", "prometheus"):
        image(name)
    seen, runs = Seen(), made_runs()
    apply_ground(kustomize(OVERLAY), runs)
    try:
        _run(seen, runs / "end-to-end")
        delete_overlay()
        seen.left = left()
        yield seen
    finally:
        delete_overlay()
        watching.remove()


def _run(seen: Seen, run: Path) -> None:
    manifests = kustomize(OVERLAY)
    cluster.apply([m for m in manifests if m["kind"] != "StatefulSet"])
    cluster.wait("the trainer waits for engines", lambda: _waits(seen), 5 * _MINUTES)
    cluster.kubectl("apply", "-k", str(OVERLAY))  # the engines, and the rest once more
    watching.start()
    cluster.wait("two steps", lambda: len(_rows(run)) >= 2, 12 * _MINUTES)
    everyone = [pod for who in (*COMPONENTS, "worker") for pod in cluster.pods(who)]
    seen.failed_before = cluster.restarted_or_failed(everyone)
    _watch(seen)
    seen.sick = [who for who in COMPONENTS if not _healthy(who)]
    _delete_trainer(seen, run)
    enough = seen.steps_at_stop + 1
    cluster.wait("a step of the new pod", lambda: len(_rows(run)) >= enough, 10 * _MINUTES)
    for component in ("verifier", "worker", "engine"):
        (pod, *_) = cluster.pods(component)
        cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    cluster.wait("Complete", lambda: "Complete" in cluster.conditions(JOB), 12 * _MINUTES)
    seen.rows, seen.weights = _rows(run), of_swaps(run)
    seen.log = cluster.log(cluster.pods("trainer")[-1])
    seen.tokens = sorted(path.name for path in (run / "lease").iterdir())


def _waits(seen: Seen) -> bool:
    for pod in cluster.pods("trainer"):
        seen.before_engines = pod["status"]["phase"]
        if "engines: 0 of" in cluster.log(pod) or seen.before_engines == "Failed":
            return True
    return False


def _watch(seen: Seen) -> None:
    watching.tell()

    def all_up() -> bool:
        found = watching.ask("min by (component, run) (up)")
        seen.up = {f["metric"]["component"]: float(f["value"][1]) for f in found}
        seen.runs = {f["metric"]["run"] for f in found}
        return seen.up == dict.fromkeys(COMPONENTS, 1.0) and bool(watching.ask("sdpo_step"))

    cluster.wait("Prometheus has scraped all three", all_up, 1 * _MINUTES)
    seen.faulty_rules, seen.firing = watching.faulty_rules(), watching.firing()


def _healthy(component: str) -> bool:
    """Whether the HEALTHCHECK of the component's image succeeds in its pod."""
    name = f"localhost/sdpo-{IMAGES[component]}:end-to-end"
    said = subprocess.run(
        ["buildah", "inspect", "--type=image", name], capture_output=True, text=True, check=True
    ).stdout
    kind, *command = json.loads(said)["Docker"]["config"]["Healthcheck"]["Test"]
    assert kind == "CMD"
    try:
        cluster.inside(cluster.pods(component)[0], *command)
    except AssertionError:
        return False
    return True


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
        if code is not None:
            seen.stopped_code = code
        return code is not None

    cluster.wait("the deleted pod ends", ended, 3 * _MINUTES, every_s=0.3)
    seen.complete_at_stop = "Complete" in cluster.conditions(JOB)
    seen.steps_at_stop = len(_rows(run))
    finalizers([])


def _rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_trainer_before_its_engines_waits_and_nothing_fails(seen: Seen) -> None:
    assert seen.before_engines == "Running"
    assert seen.failed_before == []


def test_prometheus_reaches_all_three_roles_by_our_scrape_configuration(seen: Seen) -> None:
    assert seen.up == dict.fromkeys(COMPONENTS, 1.0)
    assert seen.runs == {"end-to-end"}


def test_the_rules_hold_and_nothing_is_wrong_with_the_machinery(seen: Seen) -> None:
    assert seen.faulty_rules == []
    assert set(seen.firing) <= _OF_LEARNING


def test_the_health_checks_of_the_images_succeed_in_their_pods(seen: Seen) -> None:
    assert seen.sick == []


def test_a_deleted_trainer_stops_with_a_checkpoint_and_the_job_goes_on(seen: Seen) -> None:
    assert seen.stopped_code == STOPPED
    assert not seen.complete_at_stop
    assert 2 <= seen.steps_at_stop < STEPS


def test_the_job_is_complete_after_the_last_step_and_each_was_taken_once(seen: Seen) -> None:
    assert [row["step"] for row in seen.rows] == list(range(1, STEPS + 1))
    assert re.search(rf"after step {STEPS}\b", seen.log)


def test_attempts_were_made_by_the_pod_of_rollout_workers(seen: Seen) -> None:
    """It outlived the first trainer, and when it was deleted its successor joined."""
    assert seen.log.count("rollout worker end-to-end-worker-0 has joined") == 2
    assert "worker-0: its connection ended; its groups are given out again" in seen.log


def test_there_was_one_writer_after_the_other(seen: Seen) -> None:
    """A token for each trainer pod, all given back."""
    assert seen.tokens == ["000002.released"]


def test_every_version_was_served_with_the_weights_of_an_undisturbed_run(
    seen: Seen, checksums: dict[int, str]
) -> None:
    assert sorted(seen.weights) == list(range(STEPS + 1))
    assert seen.weights == checksums


def test_delete_k_leaves_nothing(seen: Seen) -> None:
    assert seen.left == []
