"""What a worker asks of its template, and the answer: fixed layouts, so that reading and writing
them touches little memory of a process whose every page is copied again after each clone."""

from __future__ import annotations

import struct

from .fence.confine import Limits

# What comes in for a run: stdin, stdout, stderr and channel of the attempt; when judged also the
# rpc of the attempt, rpc of the judge, channel of the judge, /dev/null. By their places:
UNJUDGED: dict[str, tuple[int, ...]] = {"attempt": (0, 1, 2, 3)}
RPC_ENDS = slice(4, 6)
JUDGED = {"attempt": (0, 1, 2, 3, 4), "judge": (7, 7, 7, 6, 5)}

_KIND = struct.Struct("=2d4q2?6x")  # limits, judged, whether there is a folder
_UIDS = struct.Struct("=2q")
KIND_BYTES = _KIND.size
_HEAD_BYTES = _KIND.size + _UIDS.size
_PIDS = struct.Struct("=2q")


def write_order(limits: Limits, judged: bool, uids: list[int], folder: str) -> bytes:
    """An order of one run: its limits, the uids of attempt and judge, and the folder that the
    attempt owns ("" for none, or where that is its private /tmp)."""
    kind = _KIND.pack(*vars(limits).values(), judged, bool(folder))
    return kind + _UIDS.pack(*uids) + folder.encode()


def read_kind(order: bytes) -> tuple[Limits, bool]:
    """What many orders have in common, from their first KIND_BYTES: limits, judged."""
    *limits, judged, _ = _KIND.unpack_from(order)
    return Limits(*limits), judged


def read_run(order: bytes) -> tuple[tuple[int, int], str]:
    """What each order has of its own: uids, folder."""
    attempt, judge = _UIDS.unpack_from(order, KIND_BYTES)
    return (attempt, judge), order[_HEAD_BYTES:].decode()


def write_answer(pids: list[int], error: str = "") -> bytes:
    """The pids of the children that were cloned, and why one could not be."""
    return _PIDS.pack(*pids, *[0] * (2 - len(pids))) + error.encode()


def read_answer(answer: bytes) -> tuple[list[int], str]:
    """Inverse of `write_answer`."""
    pids = [pid for pid in _PIDS.unpack_from(answer) if pid]
    return pids, answer[_PIDS.size :].decode()
