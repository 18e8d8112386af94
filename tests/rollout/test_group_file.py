"""A group's file: what comes back is what went in, one writer wins, and nothing altered is read."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdpo_megatron.errors import GroupFileError
from sdpo_megatron.nouns import GroupLease, GroupReceipt, TrainSample, VersionSpan
from sdpo_megatron.rollout.group_file import (
    read_receipt,
    read_samples,
    receipt_from_plain,
    receipt_to_plain,
    write_group,
)

LEASE = GroupLease(12, 1)


def sample(index: int, response: int = 5, **changes: Any) -> TrainSample:
    given: dict[str, Any] = {
        "question_id": "q/7",
        "index": index,
        "prompt_ids": range(100, 104),
        "response_ids": [2**31 - 1, *range(response - 1)],
        "loss_mask": [i % 2 == 0 for i in range(response)],
        "log_probs": [-0.1 * i for i in range(response)],
        "versions": (VersionSpan(0, 2, 4), VersionSpan(2, response, 5)),
        "teacher_prompt_ids": range(200, 207),
        "advantage": -1 / 3,
        "distill_weight": 0.1,
        "policy_weight": 2 / 3,
        "reward": 0.7,
        "success": True,
    }
    return TrainSample(**(given | changes))


SAMPLES = [
    sample(0),
    sample(2, response=3, teacher_prompt_ids=None, null_prompt_ids=[9], success=False),
    sample(3, response=2, versions=(VersionSpan(0, 2, 9),), null_prompt_ids=[]),
]


def write(folder: Path, samples: list[TrainSample] = SAMPLES) -> GroupReceipt:
    receipt = write_group(folder, LEASE, "q/7", samples, attempts=4, dropped=1, notes={"s": 1.5})
    assert receipt is not None
    return receipt


def assert_equal(got: TrainSample, want: TrainSample) -> None:
    for item in fields(TrainSample):
        a, b = getattr(got, item.name), getattr(want, item.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, item.name
            assert a.tobytes() == b.tobytes(), item.name
        else:
            assert a == b, item.name


def test_samples_come_back_bit_for_bit(tmp_path: Path) -> None:
    receipt = write(tmp_path)
    got = read_samples(tmp_path / receipt.file, crc32=receipt.crc32)
    for one, want in zip(got, SAMPLES, strict=True):
        assert_equal(one, want)


def test_a_sample_is_read_alone(tmp_path: Path) -> None:
    receipt = write(tmp_path)
    path = tmp_path / receipt.file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # of the last sample's record: the others are still good
    path.write_bytes(data)
    second, first = read_samples(path, [1, 0], crc32=receipt.crc32)
    assert_equal(first, SAMPLES[0])
    assert_equal(second, SAMPLES[1])
    with pytest.raises(GroupFileError, match="checksum of its sample 2 is wrong"):
        read_samples(path, [2], crc32=receipt.crc32)


def test_the_receipt_says_what_planning_needs(tmp_path: Path) -> None:
    receipt = write(tmp_path)
    assert (receipt.attempts, receipt.dropped, receipt.oldest_version) == (4, 1, 4)
    assert receipt.bytes == (tmp_path / receipt.file).stat().st_size
    second = receipt.samples[1]
    assert (second.index, second.prompt_tokens, second.response_tokens) == (2, 4, 3)
    assert (second.teacher_tokens, second.null_tokens, second.trained_tokens) == (None, 1, 2)
    assert receipt.samples[2].null_tokens == 0  # a prompt of no token is not no prompt
    assert read_receipt(tmp_path / receipt.file) == receipt
    assert receipt_from_plain(json.loads(json.dumps(receipt_to_plain(receipt)))) == receipt


def test_a_group_of_which_nothing_was_left(tmp_path: Path) -> None:
    receipt = write_group(tmp_path, LEASE, "q", [], attempts=0, dropped=8)
    assert receipt is not None
    assert (receipt.samples, receipt.oldest_version) == ((), None)
    assert read_samples(tmp_path / receipt.file, crc32=receipt.crc32) == []


def test_of_many_writers_one_wins_and_nothing_else_is_left(tmp_path: Path) -> None:
    start, answers = threading.Barrier(8), []

    def race(number: int) -> None:
        start.wait()
        mine = [sample(number)]
        answers.append((number, write_group(tmp_path, LEASE, "q/7", mine, attempts=1)))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((winner, receipt),) = [(n, receipt) for n, receipt in answers if receipt]
    assert [path.name for path in tmp_path.iterdir()] == [receipt.file]
    assert read_receipt(tmp_path / receipt.file) == receipt
    assert receipt.samples[0].index == winner


@pytest.mark.parametrize("keep", [0, 7, 15, 40, 300, -1])
def test_a_torn_file_is_refused_wherever_it_ends(tmp_path: Path, keep: int) -> None:
    receipt = write(tmp_path)
    path = tmp_path / receipt.file
    os.truncate(path, keep if keep >= 0 else receipt.bytes - 1)
    for attempt in (lambda: read_samples(path, [0]), lambda: read_receipt(path)):
        with pytest.raises(GroupFileError, match=r"torn|no file of a group") as caught:
            attempt()
        assert str(path) in str(caught.value)


def test_every_byte_is_watched(tmp_path: Path) -> None:
    receipt = write(tmp_path, [sample(0, response=2, versions=(VersionSpan(0, 2, 1),))])
    path = tmp_path / receipt.file
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(GroupFileError):
            read_samples(path, crc32=receipt.crc32)


def test_a_whole_file_of_another_content_is_not_the_receipts(tmp_path: Path) -> None:
    receipt = write(tmp_path)
    other = write(tmp_path / "other", [sample(0, distill_weight=0.2), *SAMPLES[1:]])
    assert other.bytes == receipt.bytes
    (tmp_path / "other" / other.file).replace(tmp_path / receipt.file)
    with pytest.raises(GroupFileError, match="is another: its checksum is"):
        read_samples(tmp_path / receipt.file, crc32=receipt.crc32)


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(GroupFileError, match=r"nowhere\.bin: the file cannot be read: No such"):
        read_samples(tmp_path / "nowhere.bin")


def test_a_full_disk_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GroupFileError, match="No space left on device"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_sort_as_leases_do() -> None:
    leases = [GroupLease(2), GroupLease(10), GroupLease(2, 1), GroupLease(10**8)]
    assert sorted(leases) == sorted(leases, key=lambda lease: lease.name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_probs": [0.0]}, "5 response tokens, but 5 masks and 1 log-probabilities"),
        ({"versions": (VersionSpan(0, 4, 1),)}, "follow one another from 0 to 5"),
        ({"versions": (VersionSpan(0, 2, 1), VersionSpan(3, 5, 1))}, "follow one another"),
    ],
)
def test_a_sample_whose_arrays_disagree_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(0, **changes)
