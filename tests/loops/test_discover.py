"""`sdpo discover` on real engines and trainers: searches end, start anew, and survive a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.rollout.store import RolloutStore
from tests.loops.runs import finish, kill, overrides, wait_until

pytestmark = pytest.mark.slow

BUDGET, ATTEMPTS = 6, 3


def arguments(model: Path, folder: Path, *more: str) -> list[str]:
    given = {word.partition("=")[0]: word for word in overrides(model, folder)}
    given |= {
        word.partition("=")[0]: word
        for word in (
            "task.limit=2", "batch.questions=1", f"discovery.attempts={BUDGET}",
            "discovery.searches=2", "task.verifier=tests.loops.parity:Rare", *more,
        )
    }  # fmt: skip
    return list(given.values())


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sdpo_megatron.cli", "discover", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def searches(folder: Path) -> list[dict[str, Any]]:
    """What does not depend on how fast the machine is."""
    return [{**line, "seconds": 0} for line in lines(folder / "searches.jsonl")]


@pytest.fixture(scope="module")
def undisturbed(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("discover") / "run"
    return folder, finish(start(arguments(tiny_llama, folder)))


def test_every_question_is_searched_from_every_seed(undisturbed: tuple[Path, str]) -> None:
    folder, output = undisturbed
    found = searches(folder)
    assert [s["seed"] for s in found] == [0, 0, 1, 1]
    assert len({(s["question_id"], s["seed"]) for s in found}) == 4
    store = RolloutStore(folder / "rollouts")
    step = 0
    for search in found:
        successes: list[bool] = []
        while len(successes) < search["attempts"]:
            step += 1
            (group,) = store.read(step).groups
            assert group.question.id == search["question_id"]
            successes += [verdict.success for verdict in group.verdicts]
        assert len(successes) == search["attempts"] <= BUDGET
        first = successes.index(True) + 1 if True in successes else None
        assert search["found_at"] == first
        if first is None:
            assert search["attempts"] == BUDGET
        else:
            assert search["attempts"] - first < ATTEMPTS  # nothing was sampled after its batch
        assert bool(search["solution"]) == (first is not None)
    assert "discovery@k" in output
    assert "search 4 of 4" in output


def test_each_search_begins_with_the_first_weights(undisturbed: tuple[Path, str]) -> None:
    """By the engines' own checksums: that of version 0 comes back, with others in between."""
    folder, _ = undisturbed
    swaps = lines(folder / "swaps.jsonl")
    first = swaps[0]["checksum"]
    again = [swap["version"] for swap in swaps if swap["checksum"] == first]
    trained = [s for s in searches(folder)[:-1] if s["attempts"] > ATTEMPTS]
    assert trained, "no search went on for a second batch: choose another verifier"
    assert len(again) >= 1 + len(trained)
    assert len({swap["checksum"] for swap in swaps}) > 1
    versions = [swap["version"] for swap in swaps]
    assert versions == sorted(set(versions))


def test_a_killed_discovery_goes_on_to_the_same_end(
    undisturbed: tuple[Path, str], tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = start(arguments(tiny_llama, folder))
    wait_until(lambda: len(lines(folder / "metrics.jsonl")) >= 2, process)
    kill(process)
    finish(start(["--resume", str(folder)]))
    by_name = {(s["question_id"], s["seed"]): s for s in searches(folder)}
    assert by_name == {(s["question_id"], s["seed"]): s for s in searches(undisturbed[0])}


def test_a_conversation_sees_the_feedback_on_its_earlier_turns(
    tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = (
        "discovery.method=multi_turn", "discovery.searches=1", "task.limit=1",
        "discovery.attempts=3", "rollout.sampling.num_attempts=1", "discovery.window_tokens=1000",
        "task.verifier=tests.loops.parity:Never",
    )  # fmt: skip
    finish(start(arguments(tiny_llama, folder, *words)))
    store = RolloutStore(folder / "rollouts")
    asked = [store.read(step).groups[0].question.messages for step in (1, 2, 3)]
    assert [len(messages) for messages in asked] == [len(asked[0]) + 2 * n for n in range(3)]
    assert "This is never right." in asked[2][-1]["content"]
    assert [line["version"] for line in lines(folder / "swaps.jsonl")] == [0]
    (search,) = searches(folder)
    assert (search["method"], search["attempts"], search["found_at"]) == ("multi_turn", 3, None)
