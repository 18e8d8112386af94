"""Checkpoint files that do not fit are refused before anything is loaded, naming the tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdpo_megatron.errors import ModelFileError
from sdpo_megatron.weights.files import SliceReader, index_folder
from sdpo_megatron.weights.load import MAX_NAMED, check_tensors
from sdpo_megatron.weights.mapping import hf_shapes
from sdpo_megatron.weights.spec import ModelSpec

SPEC = ModelSpec(
    model_type="qwen3",
    num_layers=2,
    hidden=8,
    ffn_hidden=12,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    vocab=11,
    max_position=64,
    norm_eps=1e-6,
    rope_theta=1e4,
    qk_norm=True,
)
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, {name: torch.randn(shape) for name, shape in hf_shapes(SPEC).items()})
    return tmp_path


def write(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder / "model.safetensors")


def read(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def problems(folder: Path, spec: ModelSpec = SPEC) -> str:
    with pytest.raises(ModelFileError) as error:
        check_tensors(spec, index_folder(folder), folder)
    return str(error.value)


def test_a_fitting_checkpoint_passes(folder: Path) -> None:
    check_tensors(SPEC, index_folder(folder), folder)


def test_missing_surplus_and_misshaped_are_all_named(folder: Path) -> None:
    tensors = read(folder)
    del tensors["model.norm.weight"]
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(12, 7)
    tensors["model.layers.1.mlp.up_proj.bias"] = torch.zeros(12)
    tensors["model.layers.0.self_attn.q_norm.weight"] = torch.zeros(2, dtype=torch.int64)
    write(folder, tensors)
    message = problems(folder)
    assert "missing (1): model.norm.weight" in message
    assert "surplus (1): model.layers.1.mlp.up_proj.bias" in message
    assert "mis-shaped (1): model.layers.1.mlp.up_proj.weight [12, 7], expected [12, 8]" in message
    assert "not floating point (1): model.layers.0.self_attn.q_norm.weight I64" in message
    assert "nothing was loaded" in message


def test_only_the_first_dozens_are_named(folder: Path) -> None:
    tensors = {**read(folder), **{f"extra.{i}": torch.zeros(1) for i in range(MAX_NAMED + 5)}}
    write(folder, tensors)
    message = problems(folder)
    assert f"surplus ({MAX_NAMED + 5}): extra.0, " in message
    assert "and 5 more" in message


def test_a_tied_model_may_carry_its_head(folder: Path) -> None:
    tied = ModelSpec(**{**vars(SPEC), "tied": True})
    check_tensors(tied, index_folder(folder), folder)


def test_frequencies_that_old_llamas_saved_are_no_surplus(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    write(folder, {**read(folder), name: torch.zeros(4)})
    check_tensors(SPEC, index_folder(folder), folder)


def test_a_truncated_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match=r"model\.safetensors is corrupt or cut short"):
        index_folder(folder)


def test_a_file_of_noise(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelFileError, match="fetch the model again"):
        index_folder(folder)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="only safetensors checkpoints are read"):
        index_folder(tmp_path)
    with pytest.raises(ModelFileError, match="does not exist"):
        index_folder(tmp_path / "nowhere")


def test_an_index_that_names_a_missing_file(folder: Path) -> None:
    weight_map = dict.fromkeys(read(folder), "model.safetensors")
    weight_map["lm_head.weight"] = "model-00002-of-00002.safetensors"
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelFileError, match=r"not there: model-00002-of-00002\.safetensors"):
        index_folder(folder)
    index.write_text("{")
    with pytest.raises(ModelFileError, match="is not a readable index"):
        index_folder(folder)


def test_slices_of_a_sharded_checkpoint(folder: Path) -> None:
    tensors = read(folder)
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    index = index_folder(folder)
    check_tensors(SPEC, index, folder)
    with SliceReader(index) as reader:
        for name, tensor in tensors.items():
            assert torch.equal(reader.read(name, 0, 1, 3), tensor[1:3])
            if tensor.ndim == 2:
                assert torch.equal(reader.read(name, 1, 2, 5), tensor[:, 2:5])
