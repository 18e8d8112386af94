"""One file for each group of samples: written once, read whole or sample by sample.

    8 bytes     magic
    2 x uint32  length and crc32 of the header
    header      JSON: the receipt but for `file`, `bytes` and `crc32`, and a record a sample
    arrays      of each sample (`records`)

A lease has one file (`GroupLease.name` + ".bin"). It is written under a hidden name and linked to
its own, so it is there whole or not at all, and of several writers the first wins: the others are
told that they lost. Whoever has the receipt reads nothing unchecked: its crc32 is that of the
header, and the header has one for every record.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

from sdpo_megatron.errors import GroupFileError
from sdpo_megatron.files import sync_folder
from sdpo_megatron.nouns import GroupLease, GroupReceipt, TrainSample
from sdpo_megatron.rollout.records import Record, pack, receipt_of, row_of, unpack

MAGIC = b"SDPOGRP1"
_FIXED = struct.Struct("<8sII")


def write_group(
    folder: Path,
    lease: GroupLease,
    question_id: str,
    samples: Sequence[TrainSample],
    *,
    attempts: int,
    dropped: int = 0,
    notes: Mapping[str, Any] | None = None,
) -> GroupReceipt | None:
    """Write the samples of a group to `folder`; on the disk when this returns.

    Args:
        folder: Made when absent.
        attempts, dropped, notes: As in `GroupReceipt`.

    Returns:
        Its receipt; None when another writer was first (its receipt: `read_receipt`).

    Raises:
        GroupFileError: It could not be written: a full disk, or a file system without hard links.
    """
    payload = [pack(sample) for sample in samples]
    spans = [span.version for sample in samples for span in sample.versions]
    header: dict[str, Any] = {
        "lease": [lease.position, lease.number],
        "question_id": question_id,
        "attempts": attempts,
        "dropped": dropped,
        "samples": [row_of(sample.receipt()) for sample in samples],
        "oldest_version": min(spans, default=None),
        "notes": dict(notes or {}),
    }
    records = [Record.of(sample, data) for sample, data in zip(samples, payload, strict=True)]
    head = json.dumps({**header, "records": records}).encode()
    head += b" " * (-(_FIXED.size + len(head)) % 8)  # arrays begin at a multiple of 8
    data = b"".join((_FIXED.pack(MAGIC, len(head), zlib.crc32(head)), head, *payload))
    path = folder / f"{lease.name}.bin"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _link_whole(path, data):
            return None
    except OSError as error:
        raise GroupFileError(
            f"{path}: the group of {question_id} could not be written: {error.strerror}. Free "
            "some space and go on from the last checkpoint; a file system without hard links "
            "cannot hold a run folder."
        ) from error
    return _receipt(header, path.name, len(data), zlib.crc32(head))


def read_receipt(path: Path) -> GroupReceipt:
    """The receipt of a group's file, from the file itself.

    Raises:
        GroupFileError: It is missing, torn or altered; of the records only the length is looked at.
    """
    with _Opened(path) as file:
        return file.receipt


def read_samples(
    path: Path, numbers: Iterable[int] | None = None, *, crc32: int | None = None
) -> list[TrainSample]:
    """Samples of a group's file: all of them, or those at `numbers` (places in `receipt.samples`).

    Only what is asked for is read, and all that is read is checked.

    Args:
        crc32: Of the receipt that the file must have; None accepts any whole file.

    Raises:
        GroupFileError: The file is missing, torn, altered, or another than the one expected.
    """
    with _Opened(path, crc32) as file:
        chosen = range(len(file.records)) if numbers is None else numbers
        return [file.sample(number) for number in chosen]


def receipt_to_plain(receipt: GroupReceipt) -> dict[str, Any]:
    """JSON-able data: what a ledger line or a plan holds."""
    return {
        "lease": [receipt.lease.position, receipt.lease.number],
        "question_id": receipt.question_id,
        "attempts": receipt.attempts,
        "dropped": receipt.dropped,
        "samples": [row_of(sample) for sample in receipt.samples],
        "oldest_version": receipt.oldest_version,
        "notes": dict(receipt.notes),
        "file": receipt.file,
        "bytes": receipt.bytes,
        "crc32": receipt.crc32,
    }


def receipt_from_plain(plain: Mapping[str, Any]) -> GroupReceipt:
    """The inverse of `receipt_to_plain`."""
    return _receipt(plain, plain["file"], plain["bytes"], plain["crc32"])


def _receipt(plain: Mapping[str, Any], file: str, size: int, crc32: int) -> GroupReceipt:
    return GroupReceipt(
        lease=GroupLease(*plain["lease"]),
        question_id=plain["question_id"],
        attempts=plain["attempts"],
        dropped=plain["dropped"],
        samples=tuple(receipt_of(row) for row in plain["samples"]),
        oldest_version=plain["oldest_version"],
        notes=plain["notes"],
        file=file,
        bytes=size,
        crc32=crc32,
    )


class _Opened:
    """A group's file, its header checked. Not mapped: a mapping of a file that someone cuts short
    would end the process, where a read says so.
    """

    def __init__(self, path: Path, expected: int | None = None) -> None:
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            self._refuse(f"cannot be read: {error.strerror}", error)
        try:
            self.receipt, self.records = self._header(expected)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._file.close()

    def _read(self, start: int, length: int) -> bytes:
        """Up to `length` bytes; fewer where the file ends."""
        try:
            self._file.seek(start)
            parts = []
            while length and (part := self._file.read(length)):
                parts.append(part)
                length -= len(part)
        except OSError as error:
            self._refuse(f"cannot be read: {error.strerror}", error)
        return b"".join(parts)

    def _header(self, expected: int | None) -> tuple[GroupReceipt, list[Record]]:
        fixed = self._read(0, _FIXED.size)
        if len(fixed) < _FIXED.size or not fixed.startswith(MAGIC):
            self._refuse(f"does not begin with {MAGIC!r}: it is no file of a group")
        _, length, crc32 = _FIXED.unpack(fixed)
        head = self._read(_FIXED.size, length)
        if zlib.crc32(head) != crc32:
            self._refuse("was altered or is torn: the checksum of its header is wrong")
        plain = json.loads(head)
        records = [Record(*record) for record in plain["records"]]
        self._offset = _FIXED.size + length
        size = self._offset + sum(record.length for record in records)
        if (found := self._file.seek(0, os.SEEK_END)) != size:
            self._refuse(f"is torn: it has {found} bytes, expected {size}")
        if expected not in (None, crc32):
            self._refuse(f"is another: its checksum is {crc32:08x}, expected {expected:08x}")
        return _receipt(plain, self.path.name, size, crc32), records

    def sample(self, number: int) -> TrainSample:
        """The sample at this place; its arrays are its own memory."""
        record, of = self.records[number], self.receipt.samples[number]
        start = self._offset + sum(before.length for before in self.records[:number])
        data = self._read(start, record.length)
        if zlib.crc32(data) != record.crc32:
            self._refuse(f"was altered: the checksum of its sample {number} is wrong")
        return unpack(self.receipt.question_id, of, record, data)

    def _refuse(self, why: str, cause: BaseException | None = None) -> NoReturn:
        raise GroupFileError(
            f"{self.path}: the file {why}. Go on from the last checkpoint: the group is made again "
            "from the run's rollouts, or sampled again."
        ) from cause


def _link_whole(path: Path, data: bytes) -> bool:
    """Write `data` to `path` unless there is such a file; whether it was written."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.partial-", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            # NFS may answer this to the repetition of a request that was carried out, its answer
            # lost.
            return os.stat(draft).st_nlink == 2
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True
