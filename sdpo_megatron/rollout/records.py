"""Samples as bytes: in a group's file, and on their way between the ranks of a model.

A sample's arrays stand one after the other, little-endian: prompt, teacher prompt, null prompt,
response ids (int32), log-probs (float32), spans (int32 [S, 3]: start, end, version), loss mask
(uint8), padding to 4 bytes. Their lengths, the numbers and a checksum are in its receipt and its
record. 9 bytes a response token, 4 a prompt token.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdpo_megatron.nouns import SampleReceipt, TrainSample, VersionSpan

_COLUMNS = (
    "index", "prompt_tokens", "teacher_tokens", "null_tokens", "response_tokens", "trained_tokens",
    "distill_weight", "policy_weight", "reward", "success",
)  # fmt: skip
_LENGTH = struct.Struct("<I")


class Record(NamedTuple):
    """What is to be known of a sample's bytes beyond its receipt."""

    length: int
    crc32: int
    advantage: float
    num_spans: int

    @classmethod
    def of(cls, sample: TrainSample, data: bytes) -> Record:
        """The record of a sample that `pack` made `data` of."""
        return cls(len(data), zlib.crc32(data), sample.advantage, len(sample.versions))


def row_of(receipt: SampleReceipt) -> list[Any]:
    """A sample's receipt as JSON has it."""
    return [getattr(receipt, name) for name in _COLUMNS]


def receipt_of(row: Sequence[Any]) -> SampleReceipt:
    """The inverse of `row_of`."""
    return SampleReceipt(**dict(zip(_COLUMNS, row, strict=True)))


def pack(sample: TrainSample) -> bytes:
    """The arrays of a sample."""
    spans = [(span.start, span.end, span.version) for span in sample.versions]
    prompts = (sample.prompt_ids, sample.teacher_prompt_ids, sample.null_prompt_ids)
    parts = [ids.astype("<i4").tobytes() for ids in prompts if ids is not None]
    parts.append(sample.response_ids.astype("<i4").tobytes())
    parts.append(sample.log_probs.astype("<f4").tobytes())
    parts.append(np.array(spans, "<i4").tobytes())
    parts.append(sample.loss_mask.astype("u1").tobytes())
    parts.append(bytes(-len(parts[-1]) % 4))
    return b"".join(parts)


def unpack(
    question_id: str, receipt: SampleReceipt, record: Record, data: bytes | memoryview
) -> TrainSample:
    """The sample that `pack` made `data` of; its arrays are views of it."""
    cut = _Cut(data)
    prompt = cut.take("<i4", receipt.prompt_tokens)
    teacher, null = (
        None if tokens is None else cut.take("<i4", tokens)
        for tokens in (receipt.teacher_tokens, receipt.null_tokens)
    )
    response, log_probs = (cut.take(kind, receipt.response_tokens) for kind in ("<i4", "<f4"))
    spans = cut.take("<i4", record.num_spans, 3).tolist()
    return TrainSample(
        question_id=question_id,
        index=receipt.index,
        prompt_ids=prompt,
        teacher_prompt_ids=teacher,
        null_prompt_ids=null,
        response_ids=response,
        log_probs=log_probs,
        versions=tuple(VersionSpan(*span) for span in spans),
        loss_mask=cut.take("u1", receipt.response_tokens).view(np.bool_),
        advantage=record.advantage,
        distill_weight=receipt.distill_weight,
        policy_weight=receipt.policy_weight,
        reward=receipt.reward,
        success=receipt.success,
    )


def to_message(samples: Sequence[TrainSample]) -> bytes:
    """Samples of any groups in one piece."""
    payload = [pack(sample) for sample in samples]
    rows = [
        [s.question_id, row_of(s.receipt()), Record.of(s, data)]
        for s, data in zip(samples, payload, strict=True)
    ]
    head = json.dumps(rows).encode()
    head += b" " * (-(_LENGTH.size + len(head)) % 8)
    return b"".join((_LENGTH.pack(len(head)), head, *payload))


def from_message(message: bytes | memoryview) -> list[TrainSample]:
    """The inverse of `to_message`; arrays are views of the message."""
    (length,) = _LENGTH.unpack_from(message)
    at = _LENGTH.size + length
    samples, view = [], memoryview(message)
    for question_id, row, record in json.loads(bytes(view[_LENGTH.size : at])):
        of = Record(*record)
        samples.append(unpack(question_id, receipt_of(row), of, view[at : at + of.length]))
        at += of.length
    return samples


class _Cut:
    """Arrays off the front of a record."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data, self._at = data, 0

    def take(self, kind: str, *shape: int) -> NDArray[Any]:
        array = np.frombuffer(self._data, kind, math.prod(shape), self._at).reshape(shape)
        self._at += array.nbytes
        return array
