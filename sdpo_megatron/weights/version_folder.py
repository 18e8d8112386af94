"""A policy version as a Hugging Face folder that every pipeline stage writes its own part of.

    begin_version      one rank: a draft with config.json, tokenizer and the like
    StageWriter        each stage's sender: a file a bucket, by a thread of its own; then its index
    commit_version     one rank: waits for the stages' indices, joins them, renames the draft

The folder appears complete or not at all. A bucket's bytes are safetensors' data section as they
are, so writing one is a header and one write.
"""

from __future__ import annotations

import json
import queue
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import torch

from sdpo_megatron.errors import CheckpointError
from sdpo_megatron.files import draft_of, put_in_place
from sdpo_megatron.weights.bucket import Bucket
from sdpo_megatron.weights.export import copy_companions, write_index

_POLL_S = 0.02
_BEHIND_S = 2.0
_MEND = "free some space, then resume the run"
_DTYPE_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
}


def begin_version(source: Path, target: Path, dtype: torch.dtype, *, in_fp8: bool = False) -> Path:
    """The draft that `target` will be made of.

    Args:
        source: The Hugging Face folder that the model came from.
        in_fp8: Its matrices will be in FP8 (`weights.fp8`).

    Raises:
        CheckpointError: It cannot be made (disk full).
    """
    draft = draft_of(target)
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        copy_companions(source, draft, dtype, in_fp8=in_fp8)
    except OSError as error:
        raise CheckpointError(f"{target}: {error}; {_MEND}") from error
    return draft


class StageWriter:
    """Writes one stage's buckets behind whoever gathers them."""

    def __init__(self, draft: Path, stage: int, *, max_ahead: int = 0, behind: bool = False):
        """Begin.

        Args:
            max_ahead: So many buckets may wait to be written before `add` blocks; 0: any number.
            behind: Write nothing before `release`, or two seconds after `finish`: the engines,
                which wait, have the machine.
        """
        self._draft, self._stage = draft, stage
        self._queue: queue.Queue[Bucket | None] = queue.Queue(max_ahead)
        self._error: str | None = None
        self._finished, self._released = threading.Event(), threading.Event()
        if not behind:
            self._released.set()
        self._thread = threading.Thread(target=self._run, name="weights-writer", daemon=True)
        self._thread.start()

    def add(self, bucket: Bucket) -> None:
        """Take a bucket over; on a GPU it is copied to the host now. Never raises."""
        flat = bucket.flat if bucket.flat.device.type == "cpu" else bucket.flat.cpu()
        self._queue.put(Bucket(bucket.metas, flat))

    def finish(self) -> None:
        """That was all; the rest is written while the caller goes on."""
        self._queue.put(None)
        self._finished.set()

    def release(self) -> None:
        """Write now."""
        self._released.set()
        self._finished.set()

    def wait(self) -> str | None:
        """Until all is written; what went wrong, if anything did."""
        self._thread.join()
        return self._error

    def _run(self) -> None:
        files: dict[str, str] = {}
        num_bytes = 0
        if not self._released.is_set():
            self._finished.wait()
            self._released.wait(_BEHIND_S)  # an engine may need the folder before the swap can end
        for number in range(1 << 30):
            bucket = self._queue.get()
            if bucket is None:
                break
            if self._error is None:
                name = f"stage-{self._stage:03d}-{number:05d}.safetensors"
                try:
                    _write_bucket(self._draft / name, bucket)
                except OSError as error:
                    self._error = f"{self._draft / name}: {error}"
                files |= dict.fromkeys((meta.name for meta in bucket.metas), name)
                num_bytes += bucket.num_bytes
        told = {"error": self._error, "files": files, "num_bytes": num_bytes}
        marker = _marker(self._draft, self._stage)
        try:
            partial = marker.with_suffix(".partial")
            partial.write_text(json.dumps(told))
            partial.rename(marker)
        except OSError as error:
            self._error = self._error or f"{marker}: {error}"


def commit_version(draft: Path, target: Path, num_stages: int, timeout_s: float) -> None:
    """Wait until every stage has written its part, then put the folder in its place.

    Raises:
        CheckpointError: A stage could not write, or did not say so in time; the draft is gone.
    """
    end = time.monotonic() + timeout_s
    where: dict[str, str] = {}
    num_bytes = 0
    try:
        for stage in range(num_stages):
            marker = _marker(draft, stage)
            while not marker.exists():
                if time.monotonic() > end:
                    raise CheckpointError(
                        f"{target}: pipeline stage {stage} did not finish its part of the weights "
                        f"within {timeout_s:g} s; is the disk full, or not shared by all ranks?"
                    )
                time.sleep(_POLL_S)
            told = json.loads(marker.read_text())
            if told["error"]:
                raise CheckpointError(f"{told['error']}; {_MEND}")
            where |= told["files"]
            num_bytes += told["num_bytes"]
            marker.unlink()
        write_index(draft, where, num_bytes)
        put_in_place(draft, target)
    except OSError as error:
        raise CheckpointError(f"{target}: {error}; {_MEND}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _marker(draft: Path, stage: int) -> Path:
    return draft / f"stage-{stage:03d}.json"


def _write_bucket(file: Path, bucket: Bucket) -> None:
    """A safetensors file: length of the header, header, data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for meta in bucket.metas:
        stop = start + meta.num_bytes
        header[meta.name] = {
            "dtype": _DTYPE_NAMES[meta.dtype],
            "shape": list(meta.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data is aligned to 8 bytes
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.write(bucket.flat.numpy().data)
