"""Rollout files: what is read equals what was written, and a torn or failed write is never taken
for a step."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo_megatron.errors import CheckpointError
from sdpo_megatron.nouns import Attempt, Group, PolicyVersion, Question, Verdict, VersionSpan
from sdpo_megatron.rollout.store import RolloutStore, group_from_json, group_to_json

VERSION = PolicyVersion(3, "abc")


def make_group(text: str = "return a", log_probs: tuple[float, ...] = (-0.1, -1 / 3)) -> Group:
    attempt = Attempt(
        question_id="HumanEval/28",
        index=1,
        prompt_ids=(1, 2, 3),
        response_ids=tuple(range(len(log_probs))),
        log_probs=log_probs,
        loss_mask=tuple(i % 3 != 1 for i in range(len(log_probs))),
        versions=(VersionSpan(0, 1, 2), VersionSpan(1, 2, 3)),
        finish_reason="stop",
        text=text,
        seed=2**61 + 1,
    )
    question = Question(
        id="HumanEval/28",
        task="human_eval",
        messages=({"role": "user", "content": text},),
        prefill="```python\n",
        stop=("```",),
        item=MappingProxyType({"tests": ["assert f(1) == 2"], "limits": {"seconds": 2.5}}),
    )
    verdict = Verdict(
        reward=1 / 3,
        success=False,
        format_ok=True,
        feedback=text,
        layers=("rlimits", "seccomp"),
        details=MappingProxyType({"failed": 2}),
    )
    return Group(question=question, attempts=(attempt,), verdicts=(verdict,), dropped=2)


def write(store: RolloutStore, step: int, groups: Sequence[Group]) -> Path:
    """As a worker and the coordinator do together."""
    names = [f"{step}-{number}" for number in range(len(groups))]
    for name, group in zip(names, groups, strict=True):
        store.write_group(name, group)
    return store.gather(step, VERSION, names)


def test_a_step_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "rollouts")
    groups = (make_group(), make_group("line\u2028separator \x00 \ud800 </s>"))
    write(store, 12, groups)
    write(store, 2, ())
    recorded = store.read(12)
    assert (recorded.step, recorded.groups) == (12, groups)
    assert recorded.version.checksum == "abc"
    assert store.steps() == [2, 12]
    assert [store.read_group(f"12-{number}") for number in range(2)] == list(groups)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False), max_size=5), st.text())
def test_floats_and_text_keep_every_bit(values: list[float], text: str) -> None:
    group = make_group(text, tuple(values))
    again = group_from_json(json.loads(json.dumps(group_to_json(group))))
    assert again == group
    assert [v.hex() for v in again.attempts[0].log_probs] == [v.hex() for v in values]


def test_writing_again_replaces(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    write(store, 0, (make_group("old"),))
    write(store, 0, (make_group("new"),))
    assert store.read(0).groups == (make_group("new"),)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["groups", "step-000000.jsonl.zst"]


@pytest.mark.parametrize("kept", [0, 10, -1])
def test_a_torn_file_is_an_error_that_names_it(tmp_path: Path, kept: int) -> None:
    store = RolloutStore(tmp_path)
    path = write(store, 4, (make_group(),))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"{path}: cannot read the rollouts: "):
        store.read(4)


def test_missing_step_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="step-000009"):
        RolloutStore(tmp_path).read(9)


def test_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RolloutStore(tmp_path)
    write(store, 4, (make_group("old"),))

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    for attempt in (
        lambda: store.gather(4, VERSION, ["4-0", "4-0"]),
        lambda: store.write_group("4-0", make_group("new")),
    ):
        with pytest.raises(CheckpointError, match="could not be written: No space left on device"):
            attempt()
    assert store.read(4).groups == (make_group("old"),)
    assert store.read_group("4-0") == make_group("old")
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == ["4-0.jsonl.zst", "groups", "step-000004.jsonl.zst"]


def test_a_group_that_is_not_there_makes_no_step(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    with pytest.raises(CheckpointError, match=r"7-0\.jsonl\.zst: cannot be read"):
        store.gather(7, VERSION, ["7-0"])
    assert store.steps() == []


@pytest.mark.parametrize("change", [{"format": 2}, {"groups": 2}])
def test_another_format_and_a_lost_group_are_errors(change: dict[str, int], tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "above" / "rollouts")
    path = write(store, 4, (make_group(),))
    assert store.read(4).version == VERSION
    frame = zstandard.ZstdDecompressor().decompressobj()
    header = json.loads(frame.decompress(path.read_bytes()))
    changed = zstandard.compress((json.dumps(header | change) + "\n").encode())
    path.write_bytes(changed + frame.unused_data)
    with pytest.raises(CheckpointError, match=r"expected format 1 with \d groups, got format"):
        store.read(4)
