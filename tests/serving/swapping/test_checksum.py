"""The trainer's checksums against those that a real engine reports, and by hand."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from sdpo_megatron.errors import SwapError
from serving.client import EngineClient, ReportedChecksums
from serving.config import EngineConfig
from serving.launch import EngineProcess
from serving.swapping.checksum import (
    EngineChecksum,
    engine_checksums,
    overall_checksum,
    tensor_checksum,
)

CONFIG = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}


def tensors_of(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as stream:
            for name in stream.keys():  # noqa: SIM118 (no mapping)
                yield name, stream.get_tensor(name)


def sha(*values: float) -> str:
    """By hand: the first 8 bytes of SHA-256 over little-endian fp32 values."""
    return hashlib.sha256(struct.pack(f"<{len(values)}f", *values)).digest()[:8].hex()


def test_one_tensor_by_hand() -> None:
    assert tensor_checksum(torch.tensor([[1.0, -2.0], [0.5, 3.0]])) == sha(1.0, -2.0, 0.5, 3.0)
    bf16 = hashlib.sha256(b"\x80\x3f\x00\xc0").digest()[:8].hex()  # 1.0, -2.0
    assert tensor_checksum(torch.tensor([1.0, -2.0], dtype=torch.bfloat16)) == bf16


def test_transposed_tensor_is_hashed_in_row_order() -> None:
    assert tensor_checksum(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T) == sha(1.0, 3.0, 2.0, 4.0)


def test_fused_parameters_by_hand_under_tp_2() -> None:
    """4 query heads and 2 kv heads of size 1, hidden 1; gate and up of size 2."""

    def column(*values: float) -> torch.Tensor:
        return torch.tensor(values)[:, None]

    layer = "model.layers.0."
    tensors = {
        layer + "self_attn.v_proj.weight": column(7, 8),
        layer + "self_attn.q_proj.weight": column(1, 2, 3, 4),
        layer + "self_attn.k_proj.weight": column(5, 6),
        layer + "self_attn.o_proj.weight": torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        layer + "mlp.up_proj.weight": column(11, 12),
        layer + "mlp.gate_proj.weight": column(9, 10),
        layer + "input_layernorm.weight": torch.tensor([13.0]),
    }
    first, second = engine_checksums(tensors.items(), CONFIG, dtype="float32", tp_size=2)
    assert first == {
        layer + "self_attn.qkv_proj.weight": sha(1, 2, 5, 7),
        layer + "self_attn.o_proj.weight": sha(1, 2),
        layer + "mlp.gate_up_proj.weight": sha(9, 11),
        layer + "input_layernorm.weight": sha(13),
    }
    assert second == {
        layer + "self_attn.qkv_proj.weight": sha(3, 4, 6, 8),
        layer + "self_attn.o_proj.weight": sha(3, 4),
        layer + "mlp.gate_up_proj.weight": sha(10, 12),
        layer + "input_layernorm.weight": sha(13),
    }


def test_kv_heads_are_repeated_where_ranks_are_more() -> None:
    names = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    columns = [torch.tensor(values)[:, None] for values in ([1.0, 2, 3, 4], [5.0, 6], [7.0, 8])]
    ranks = engine_checksums(zip(names, columns, strict=True), CONFIG, dtype="float32", tp_size=4)
    expected = [sha(1, 5, 7), sha(2, 5, 7), sha(3, 6, 8), sha(4, 6, 8)]
    assert [rank["model.layers.0.self_attn.qkv_proj.weight"] for rank in ranks] == expected


def test_vocabulary_is_filled_up_to_64_rows() -> None:
    tensors = {"lm_head.weight": torch.ones(3, 1)}
    (rank,) = engine_checksums(tensors.items(), CONFIG, dtype="float32")
    assert rank == {"lm_head.weight": sha(*[1.0] * 3, *[0.0] * 61)}


def test_tied_head_is_no_parameter() -> None:
    tensors = {"lm_head.weight": torch.ones(64, 1), "model.norm.weight": torch.ones(1)}
    config = {**CONFIG, "tie_word_embeddings": True}
    assert engine_checksums(tensors.items(), config, dtype="float32") == [
        {"model.norm.weight": sha(1)}
    ]


def test_missing_part_is_named() -> None:
    checksum = EngineChecksum(CONFIG)
    checksum.add("model.layers.7.mlp.up_proj.weight", torch.ones(2, 1))
    with pytest.raises(SwapError, match=r"parts of model\.layers\.7\.mlp\.gate_up_proj\.weight"):
        checksum.overall()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "tp"), [("tiny_qwen3", 2), ("smollm2", 1)], ids=["qwen3-tp2", "smollm2"]
)
def test_equal_to_a_real_engine_in_bf16(
    model: str, tp: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Name by name, rank by rank, and overall. (fp32 Llama, tied: test_engine.py.)"""
    folder: Path = request.getfixturevalue(model)
    config = EngineConfig(device="cpu", threads=1, max_total_tokens=1024, tp=tp)
    engine = EngineProcess(config, folder, tmp_path)

    async def ask() -> ReportedChecksums:
        client = EngineClient(engine.url, config)
        try:
            return await client.checksums()
        finally:
            await client.close()

    engine.start()
    try:
        reported = asyncio.run(ask())
    finally:
        engine.stop()
    model_config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    ranks = engine_checksums(tensors_of(folder), model_config, dtype="bfloat16", tp_size=tp)
    assert [dict(rank) for rank in ranks] == [dict(rank) for rank in reported.ranks]
    assert overall_checksum(ranks) == reported.overall
