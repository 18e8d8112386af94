"""A version folder that stages write side by side: whole or not there, readable by anyone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdpo_megatron.errors import CheckpointError
from sdpo_megatron.weights.bucket import Bucket, TensorMeta
from sdpo_megatron.weights.files import index_folder
from sdpo_megatron.weights.version_folder import StageWriter, begin_version, commit_version


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text('{"dtype": "float32", "hidden_size": 2}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"not to be copied")
    return folder


def _bucket(*names: str, dtype: torch.dtype = torch.bfloat16) -> Bucket:
    metas = tuple(TensorMeta(name, (3,), dtype) for name in names)
    bucket = Bucket(metas, torch.empty(sum(m.num_bytes for m in metas), dtype=torch.uint8))
    for number, (_, tensor) in enumerate(bucket.tensors()):
        tensor.fill_(number + 0.5)
    return bucket


def test_stages_write_their_parts_and_one_joins_them(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "v1"
    draft = begin_version(source, target, torch.bfloat16)
    for stage, names in enumerate((("a", "b"), ("c",))):
        writer = StageWriter(draft, stage)
        writer.add(_bucket(*names))
        writer.finish()
        assert not target.exists()
        assert writer.wait() is None
    commit_version(draft, target, 2, timeout_s=10.0)
    assert sorted(index_folder(target)) == ["a", "b", "c"]
    tensors = load_file(target / "stage-000-00000.safetensors")
    assert tensors["b"].dtype == torch.bfloat16
    assert tensors["b"].tolist() == [1.5] * 3
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 3 * 3 * 2
    assert {path.name for path in target.iterdir()} == {
        "config.json", "tokenizer.json", "model.safetensors.index.json",
        "stage-000-00000.safetensors", "stage-001-00000.safetensors",
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"source", "v1"}


def test_a_stage_that_cannot_write_says_so_and_nothing_appears(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "v1"
    draft = begin_version(source, target, torch.bfloat16)
    (draft / "stage-000-00000.safetensors").symlink_to("/dev/full")
    writer = StageWriter(draft, 0)
    writer.add(_bucket("a"))
    writer.add(_bucket("b"))
    writer.finish()
    assert "No space left on device" in (writer.wait() or "")
    with pytest.raises(CheckpointError, match=r"No space left on device.*free some space"):
        commit_version(draft, target, 1, timeout_s=10.0)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_a_stage_that_never_ends_is_named(source: Path, tmp_path: Path) -> None:
    draft = begin_version(source, tmp_path / "v1", torch.float32)
    with pytest.raises(CheckpointError, match="pipeline stage 0 did not finish its part"):
        commit_version(draft, tmp_path / "v1", 1, timeout_s=0.05)
    assert not (tmp_path / "v1").exists()
