"""A trainer of two pods: they meet by the names of a headless Service, and stop and resume as one.

The cluster of the test has no Indexed Jobs; see indexed.py for what stands in for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.exit_codes import STOPPED
from sdpo_megatron.rendering.committed import COMMITTED
from tests.cluster import cluster
from tests.cluster.conftest import made_runs
from tests.cluster.indexed import INDEX
from tests.cluster.placed import apply_ground, delete, left, placed
from tests.cluster.undisturbed import RENDERED, of_swaps

STEPS = 3
RUN = "two-pods"
_MINUTES = 60.0


@dataclass
class Seen:
    """What was seen.

    Attributes:
        pods: The index of each trainer pod, by its host name.
        codes: Exit codes of the pods, one of which was asked to stop.
        steps_at_stop: Steps done by then.
        rows: Of metrics.jsonl.
        weights: The checksum by policy version.
        logs: Of the pods that finished, by index.
        tokens: Of the lease folder.
        left: What was left after everything was deleted.
    """

    pods: dict[str, str] = field(default_factory=dict)
    codes: list[int | None] = field(default_factory=list)
    steps_at_stop: int = -1
    rows: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[int, str] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


_INSTEAD = {
    "run.name=end-to-end": f"run.name={RUN}",
    "run.steps=5": f"run.steps={STEPS}",
    # A rank alone in its pod cannot borrow what another does not need while it writes a checkpoint.
    "--memory-gib-per-rank=4": "--memory-gib-per-rank=6 --gpus-per-node=1",
}
"""Of the end-to-end run's words: machines of one rank, so that its pipeline spans two."""


def _arguments() -> str:
    words = COMMITTED[RENDERED]
    for old, new in _INSTEAD.items():
        assert old in words
        words = words.replace(old, new)
    return words


@pytest.fixture(scope="module")
def seen(image: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """The run: SIGTERM for one pod after a step, then to its end."""
    for name in ("verifier", "trainer"):
        image(name)
    manifests = placed(_arguments(), tmp_path_factory.mktemp("rendering") / "two-pods")
    seen, runs = Seen(), made_runs()
    apply_ground(manifests, runs)
    try:
        cluster.apply(manifests)
        _run(seen, runs / RUN)
        delete(manifests)
        seen.left = left()
        yield seen
    finally:
        delete(manifests)


def _run(seen: Seen, run: Path) -> None:
    cluster.wait("a step", lambda: len(_rows(run)) >= 1, 12 * _MINUTES)
    first = cluster.pods("trainer")
    seen.pods = {pod["spec"]["hostname"]: _index(pod) for pod in first}
    (last,) = [pod for pod in first if _index(pod) == "1"]
    cluster.inside(last, "sh", "-c", "kill -TERM 1")  # tini, which hands it on

    def ended() -> bool:
        known = {pod["metadata"]["uid"] for pod in first}
        found = [pod for pod in cluster.pods("trainer") if pod["metadata"]["uid"] in known]
        seen.codes = [cluster.exit_code(pod) for pod in found]
        return None not in seen.codes

    cluster.wait("both pods end", ended, 3 * _MINUTES)
    seen.steps_at_stop = len(_rows(run))
    jobs = [f"{RUN}-trainer-{index}" for index in range(2)]

    def complete() -> bool:
        return all("Complete" in cluster.conditions(job) for job in jobs)

    cluster.wait("both Jobs complete", complete, 12 * _MINUTES)
    seen.rows, seen.weights = _rows(run), of_swaps(run)
    seen.logs = {_index(pod): cluster.log(pod) for pod in cluster.pods("trainer")}  # the last ones
    seen.tokens = sorted(path.name for path in (run / "lease").iterdir())


def _index(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["annotations"][INDEX])


def _rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_there_are_two_pods_with_a_number_each(seen: Seen) -> None:
    assert seen.pods == {f"{RUN}-trainer-0": "0", f"{RUN}-trainer-1": "1"}


def test_sigterm_for_one_pod_stops_both_with_a_checkpoint(seen: Seen) -> None:
    assert seen.codes == [STOPPED, STOPPED]
    assert 1 <= seen.steps_at_stop < STEPS


def test_new_pods_resume_and_every_step_was_taken_once(seen: Seen) -> None:
    assert [row["step"] for row in seen.rows] == list(range(1, STEPS + 1))
    assert f"after step {STEPS}" in seen.logs["0"]
    assert "waiting for node 0" in seen.logs["1"]


def test_there_was_one_writer_after_the_other(seen: Seen) -> None:
    assert seen.tokens[-1].endswith(".released")


def test_its_weights_are_those_of_one_machine(seen: Seen, checksums: dict[int, str]) -> None:
    assert seen.weights == {version: checksums[version] for version in range(STEPS + 1)}


def test_deleting_it_leaves_nothing(seen: Seen) -> None:
    assert seen.left == []
