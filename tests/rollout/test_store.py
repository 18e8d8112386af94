"""Rollout files: what is read equals what was written, and a torn or failed write is never taken
for a step."""

from __future__ import annotations

import errno
import json
import os
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


def test_a_step_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "rollouts")
    groups = (make_group(), make_group("line\u2028separator \x00 \ud800 </s>"))
    store.write(12, VERSION, groups)
    store.write(2, VERSION, ())
    recorded = store.read(12)
    assert (recorded.step, recorded.groups) == (12, groups)
    assert recorded.version.checksum == "abc"
    assert store.steps() == [2, 12]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False), max_size=5), st.text())
def test_floats_and_text_keep_every_bit(values: list[float], text: str) -> None:
    group = make_group(text, tuple(values))
    again = group_from_json(json.loads(json.dumps(group_to_json(group))))
    assert again == group
    assert [v.hex() for v in again.attempts[0].log_probs] == [v.hex() for v in values]


def test_writing_again_replaces(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.write(0, VERSION, (make_group("old"),))
    store.write(0, VERSION, (make_group("new"),))
    assert store.read(0).groups == (make_group("new"),)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000.jsonl.zst"]


@pytest.mark.parametrize("kept", [0, 10, -1])
def test_a_torn_file_is_an_error_that_names_it(tmp_path: Path, kept: int) -> None:
    store = RolloutStore(tmp_path)
    path = store.write(4, VERSION, (make_group(),))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"{path}: cannot read the rollouts of step 4"):
        store.read(4)


def test_missing_step_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="step-000009"):
        RolloutStore(tmp_path).read(9)


def test_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RolloutStore(tmp_path)
    store.write(4, VERSION, (make_group("old"),))

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(
        CheckpointError, match="step 4 could not be written: No space left on device"
    ):
        store.write(4, VERSION, (make_group("new"),))
    assert store.read(4).groups == (make_group("old"),)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000004.jsonl.zst"]


@pytest.mark.parametrize("change", [{"format": 2}, {"groups": 2}])
def test_another_format_and_a_lost_group_are_errors(change: dict[str, int], tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "above" / "rollouts")
    path = store.write(4, VERSION, (make_group(),))
    assert store.read(4).version == VERSION
    header, *rows = zstandard.decompress(path.read_bytes(), 10**6).decode().splitlines()
    lines = [json.dumps(json.loads(header) | change), *rows]
    path.write_bytes(zstandard.compress("\n".join(lines).encode()))
    with pytest.raises(CheckpointError, match=r"expected format 1 with \d groups, got format"):
        store.read(4)
