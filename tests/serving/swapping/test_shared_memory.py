"""Named shared memory, and what an unrelated process makes of a bucket's handles."""

from __future__ import annotations

import asyncio
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


def test_a_swap_fills_the_memory_of_the_last_one_and_no_bucket_another_s() -> None:
    transport = TensorTransport(torch.device("cpu"))

    def swap(*sizes: int) -> list[torch.Tensor]:
        asyncio.run(transport.open([]))
        return [transport.buffer(size) for size in sizes]

    first = swap(4096, 4096, 100)
    assert [one.numel() for one in first] == [4096, 4096, 100]
    places = [one.data_ptr() for one in first]
    assert len(set(places)) == 3
    assert [one.data_ptr() for one in swap(4096, 4096, 100)] == places
    larger = swap(4096, 8192, 50)  # another layout: what fits is used, the rest is new
    assert [one.numel() for one in larger] == [4096, 8192, 50]
    assert larger[0].data_ptr() == places[0]
    assert larger[1].data_ptr() not in places
    assert len({one.data_ptr() for one in larger}) == 3


@pytest.mark.slow
def test_memory_that_was_read_before_is_found_again(tmp_path: Path) -> None:
    """An engine lets go of its mapping after each bucket; the name must outlive that."""
    transport = TensorTransport(torch.device("cpu"))
    metas = (TensorMeta("a", (2,), torch.float32), TensorMeta("b", (2,), torch.bfloat16))
    for value in (1.0, 2.0):
        asyncio.run(transport.open([]))
        bucket = Bucket(metas, transport.buffer(12))
        for tensor in dict(bucket.tensors()).values():
            tensor.fill_(value)
        file = tmp_path / "handles"
        file.write_bytes(handles(bucket))
        command = [sys.executable, "-c", READER, str(file)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said == f"[{value}, {value}] torch.bfloat16 [{value}, {value}]\n"
