"""Load, then export: the same bits, tensor by tensor, in a folder that transformers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.distributed import RankFailed, run_ranks

pytestmark = pytest.mark.slow


def test_export_gives_back_what_was_loaded(tiny_llama: Path, tmp_path: Path) -> None:
    run_ranks(export_all, 4, str(tiny_llama), str(tmp_path), {"tensor": 2, "pipeline": 2})
    original = tensors_of(tiny_llama)

    same = tensors_of(tmp_path / "same")
    assert same.keys() == original.keys()
    assert all(equal_bits(same[name], original[name]) for name in original)

    shards = sorted(f.name for f in (tmp_path / "sharded").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert tensors_of(tmp_path / "sharded").keys() == original.keys()
    assert all(equal_bits(t, original[n]) for n, t in tensors_of(tmp_path / "sharded").items())
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in original.values())

    half = tensors_of(tmp_path / "half")
    assert all(equal_bits(half[name], original[name].to(torch.bfloat16)) for name in original)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"

    # Nothing partial is left beside them, and what belongs to the model came along.
    assert {f.name for f in tmp_path.iterdir()} == {"same", "sharded", "half"}
    companions = {f.name for f in tiny_llama.iterdir()} - {"model.safetensors"}
    assert {f.name for f in (tmp_path / "same").iterdir()} == {*companions, "model.safetensors"}


def test_transformers_loads_it(tiny_qwen3: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_ranks(export_all, 2, str(tiny_qwen3), str(tmp_path), {"tensor": 2})
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tiny_qwen3)(ids).logits
        got = AutoModelForCausalLM.from_pretrained(tmp_path / "sharded")(ids).logits
    assert torch.equal(got, expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "same").eos_token == "<|im_end|>"


def test_a_tied_checkpoint_that_carries_its_head_keeps_it(tiny_llama: Path, tmp_path: Path) -> None:
    source = with_head(tiny_llama, tmp_path / "source", factor=1.0)
    run_ranks(export_all, 1, str(source), str(tmp_path / "out"), {})
    original, same = tensors_of(source), tensors_of(tmp_path / "out" / "same")
    assert same.keys() == original.keys()
    assert equal_bits(same["lm_head.weight"], original["lm_head.weight"])


def test_a_tied_checkpoint_with_another_head_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    source = with_head(tiny_llama, tmp_path / "source", factor=2.0)
    with pytest.raises(RankFailed, match="set tie_word_embeddings to false"):
        run_ranks(export_all, 1, str(source), str(tmp_path / "out"), {})


def test_failures_reach_every_rank_and_leave_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious").write_text("kept")
    messages = run_ranks(export_failures, 2, str(tiny_llama), str(tmp_path))
    assert messages[0] == messages[1]
    assert "there exists; remove it or export to another folder" in messages[0][0]
    assert "disk is full" in messages[0][1]
    assert {f.name for f in tmp_path.iterdir()} == {"there", "replaced"}
    assert (tmp_path / "there" / "precious").read_text() == "kept"
    assert not (tmp_path / "replaced" / "old").exists()
    assert (tmp_path / "replaced" / "model.safetensors").exists()


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(file))
    return found


def equal_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def with_head(source: Path, target: Path, *, factor: float) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * factor
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


# --- In the ranks --------------------------------------------------------------------------------


def loaded(folder: str, layout: dict[str, Any]) -> tuple[Any, Any]:
    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel
    from sdpo_megatron.weights.load import load_hf_weights
    from sdpo_megatron.weights.spec import ModelSpec

    spec, parallel = ModelSpec.from_folder(folder), ParallelConfig(**layout)
    init_model_parallel(parallel)
    chunks = build_model(spec, parallel, PrecisionConfig(dtype="fp32"))
    load_hf_weights(chunks, spec, folder)
    return chunks, spec


def export_all(rank: int, world_size: int, folder: str, out: str, layout: dict[str, Any]) -> None:
    from sdpo_megatron.weights.export import export_hf

    chunks, spec = loaded(folder, layout)
    seen: list[tuple[int, int]] = []
    target = Path(out)
    export_hf(chunks, spec, folder, target / "same", progress=lambda *done: seen.append(done))
    export_hf(chunks, spec, folder, target / "sharded", max_shard_bytes=50_000)
    export_hf(chunks, spec, folder, target / "half", torch.bfloat16)
    if rank == 0:
        assert seen[-1][0] == seen[-1][1] > 0
    else:
        assert not seen


def export_failures(rank: int, world_size: int, folder: str, out: str) -> list[str]:
    from safetensors import SafetensorError

    from sdpo_megatron.errors import CheckpointError
    from sdpo_megatron.weights.export import export_hf

    chunks, spec = loaded(folder, {"tensor": 2})
    messages = []

    def fails(done: int, total: int) -> None:
        raise SafetensorError("disk is full")

    for name, progress in (("there", None), ("full", fails)):
        with pytest.raises(CheckpointError) as error:
            export_hf(
                chunks, spec, folder, f"{out}/{name}", max_shard_bytes=50_000, progress=progress
            )
        messages.append(str(error.value))
    if rank == 0:
        (Path(out) / "replaced").mkdir()
        (Path(out) / "replaced" / "old").touch()
    torch.distributed.barrier()
    export_hf(chunks, spec, folder, f"{out}/replaced", overwrite=True)
    return messages
