"""Named shared memory, and what an unrelated process makes of a bucket's handles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sdpo_megatron.errors import SwapError
from sdpo_megatron.weights.bucket import Bucket, TensorMeta
from serving.transports.shared_memory import handles, shared_bytes
from serving.transports.tensor import TensorTransport

READER = """
import pickle, sys
import torch
tensors = dict(pickle.loads(open(sys.argv[1], "rb").read()))
print(tensors["a"].tolist(), tensors["b"].dtype, tensors["b"].tolist())
tensors["a"].fill_(7.0)
"""


@pytest.mark.slow
def test_another_process_sees_the_same_memory(tmp_path: Path) -> None:
    metas = (TensorMeta("a", (2, 2), torch.float32), TensorMeta("b", (3,), torch.bfloat16))
    bucket = Bucket(metas, shared_bytes(22))
    tensors = dict(bucket.tensors())
    tensors["a"].copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensors["b"].fill_(0.5)
    file = tmp_path / "handles"
    file.write_bytes(handles(bucket))
    said = subprocess.run(
        [sys.executable, "-c", READER, str(file)], capture_output=True, text=True, check=True
    )
    assert said.stdout == "[[1.0, 2.0], [3.0, 4.0]] torch.bfloat16 [0.5, 0.5, 0.5]\n"
    assert tensors["a"].tolist() == [[7.0, 7.0], [7.0, 7.0]]  # one memory, not a copy
    assert file.stat().st_size < 2000


def test_no_room_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SimpleNamespace(f_bavail=64, f_frsize=1 << 20)
    monkeypatch.setattr(os, "statvfs", lambda path: space)
    with pytest.raises(SwapError, match=r"/dev/shm has 64 MiB.*needs 512.*transport=distributed"):
        TensorTransport(torch.device("cpu")).buffer(512 << 20)
