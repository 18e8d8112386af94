"""The file: what is read back is what was written, a torn end is taken off, all else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo_megatron.errors import LedgerError
from sdpo_megatron.rollout.ledger.ledger import Ledger
from sdpo_megatron.rollout.ledger.lines import Place, decode, encode

RECORDS: list[dict[str, Any]] = [
    {"event": "plan", "num": 4},
    {"event": "lease", "positions": [0, 1, 2], "worker": "wörker \n", "seconds": 9.0},
    {"event": "commit", "position": 1, "receipt": {"file": "1", "crc": "0"}},
    {"event": "again", "positions": [0], "reason": "expired"},
    {"event": "commit", "position": 2, "receipt": {"file": "2"}},
    {"event": "batch", "step": 1, "positions": [1, 2]},
    {"event": "saved", "step": 1, "oldest": 0},
    {"event": "drop", "positions": [0], "reason": "stale"},
]


def written(folder: Path) -> Ledger:
    ledger = Ledger(folder)
    for record in RECORDS:
        ledger.write(record)
    return ledger


def test_a_ledger_opened_again_is_in_the_same_state(tmp_path: Path) -> None:
    first = written(tmp_path)
    second = Ledger(tmp_path)
    assert second.book == first.book
    assert (
        second.place
        == first.place
        == Place((tmp_path / "ledger.jsonl").stat().st_size, first.place.crc)
    )
    assert first.book.sums() == {
        "waiting": 1, "leased": 0, "committed": 0, "batched": 0, "trained": 2, "dropped": 1,
    }  # fmt: skip
    assert first.book.dropped == {"stale": 1}
    assert first.book.returned == {"expired": 1}
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    assert [{k: v for k, v in json.loads(line).items() if k != "crc"} for line in lines] == RECORDS


@given(cut=st.integers(0, 10_000))
def test_cut_anywhere_it_opens_with_the_whole_lines_before(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data, _ = encode(RECORDS, Place())
    cut %= len(data) + 1
    folder = tmp_path_factory.mktemp("cut")
    (folder / "ledger.jsonl").write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    ledger = Ledger(folder)
    assert ledger.place == encode(RECORDS[:whole], Place())[1]
    ledger.write(*RECORDS[whole:])
    assert (folder / "ledger.jsonl").read_bytes() == data


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_single_changed_bit_is_found(at: int, bit: int) -> None:
    data = bytearray(encode(RECORDS, Place())[0])
    at %= len(data) - 1  # the last line feed: without it the line is torn
    data[at] ^= 1 << bit
    with pytest.raises(LedgerError, match=r"ledger:\d+: the checksum"):
        list(decode(bytes(data), "ledger"))


def test_a_line_that_is_lost_moved_or_of_another_ledger_is_found() -> None:
    lines = encode(RECORDS, Place())[0].splitlines(keepends=True)
    for wrong in (lines[:2] + lines[3:], [lines[0], lines[2], lines[1]], lines[1:]):
        with pytest.raises(LedgerError, match="put the right file back"):
            list(decode(b"".join(wrong), "ledger"))


def test_a_checkpoint_of_another_ledger_is_refused(tmp_path: Path) -> None:
    known = written(tmp_path).place
    for wrong in (Place(known.offset + 100, known.crc), Place(known.offset, 0), Place(3, 1)):
        with pytest.raises(LedgerError, match=r"is not the ledger that the checkpoint of step 1"):
            Ledger(tmp_path).resume(1, wrong)
    ledger = Ledger(tmp_path)
    ledger.resume(1, known)
    assert ledger.book.num("trained") == 2
    (tmp_path / "ledger.jsonl").unlink()
    with pytest.raises(LedgerError, match=r"\(0 bytes\) is not the ledger"):
        Ledger(tmp_path).resume(1, known)


def test_a_record_that_cannot_follow_is_refused_and_not_written(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    size = (tmp_path / "ledger.jsonl").stat().st_size
    with pytest.raises(LedgerError, match="batch of group 1, which is trained; expected committed"):
        ledger.write({"event": "batch", "step": 2, "positions": [1]})
    assert (tmp_path / "ledger.jsonl").stat().st_size == size


def test_a_ledger_of_a_newer_version_names_the_place(tmp_path: Path) -> None:
    data, _ = encode([*RECORDS, {"event": "merge"}], Place())
    (tmp_path / "ledger.jsonl").write_bytes(data)
    with pytest.raises(
        LedgerError, match=r"ledger.jsonl, before byte \d+: .*unknown event 'merge'"
    ):
        Ledger(tmp_path)


def test_nothing_is_written_once_the_run_is_another_trainers(tmp_path: Path) -> None:
    def refuse() -> None:
        raise PermissionError("another trainer has it")

    written(tmp_path)
    ledger = Ledger(tmp_path, refuse)
    size = ledger.path.stat().st_size
    with pytest.raises(PermissionError):
        ledger.write({"event": "plan", "num": 1})
    assert ledger.path.stat().st_size == size
