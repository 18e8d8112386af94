"""Which tensors of a stage travel in which bucket, from whom: against the checkpoint's own list."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdpo_megatron.weights.bucket import MIB, Bucket, TensorMeta, total_bytes
from sdpo_megatron.weights.mapping import Position, hf_shapes
from sdpo_megatron.weights.spec import ModelSpec
from sdpo_megatron.weights.stage_plan import plan_stage

LAYOUTS = [
    Position(),
    Position(tp_size=2, pp_size=2),
    Position(pp_size=2, ep_size=4),
    Position(tp_size=2, etp_size=1, ep_size=2),
    Position(tp_size=2, etp_size=2, ep_size=2),
]


@pytest.fixture(params=["tiny_llama", "tiny_qwen3", "tiny_qwen3_moe"])
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    folder: Path = request.getfixturevalue(request.param)
    return ModelSpec.from_folder(folder)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_value_of_every_tensor_travels_once(spec: ModelSpec, layout: Position) -> None:
    """Pieces of all holders of all stages tile each tensor: no gap, no overlap."""
    covered = {
        name: torch.zeros(shape, dtype=torch.int64) for name, shape in hf_shapes(spec).items()
    }
    names: list[str] = []
    for stage in range(layout.pp_size):
        plan = plan_stage(spec, layout.at_stage(stage), torch.float32)
        names += [meta.name for bucket in plan.buckets for meta in bucket]
        for bucket, moves in zip(plan.buckets, plan.moves, strict=True):
            inside = {meta.name for meta in bucket}
            for param in (param for part in moves for param in part):
                for piece in param.pieces:
                    assert piece.hf in inside
                    size = piece.hf_stop - piece.hf_start
                    covered[piece.hf].narrow(piece.axis, piece.hf_start, size).add_(1)
    assert sorted(names) == sorted(hf_shapes(spec))
    for name, count in covered.items():
        assert bool((count == 1).all()), name


def test_a_bucket_is_bounded_but_for_what_must_travel_together(tiny_qwen3: Path) -> None:
    spec = ModelSpec.from_folder(tiny_qwen3)
    layer = "model.layers.0.self_attn."
    whole = plan_stage(spec, Position(), torch.float32, bucket_mib=1)
    assert [total_bytes(bucket) <= MIB for bucket in whole.buckets] == [True]
    together = [f"{layer}{name}_proj.weight" for name in "qkv"]
    order = [meta.name for meta in whole.buckets[0]]
    start = order.index(together[0])
    assert order[start : start + 3] == together
    assert whole.num_bytes == sum(
        4 * torch.Size(shape).numel() for shape in hf_shapes(spec).values()
    )


def test_views_of_a_bucket_are_its_bytes() -> None:
    metas = (
        TensorMeta("a", (2, 3), torch.float32),
        TensorMeta("b", (4,), torch.bfloat16),
    )
    bucket = Bucket(metas, torch.zeros(32, dtype=torch.uint8))
    tensors = dict(bucket.tensors())
    tensors["a"].copy_(torch.arange(6.0).view(2, 3))
    tensors["b"].fill_(1.0)
    assert bucket.flat[24:].tolist() == [0x80, 0x3F] * 4
    assert bucket.flat[4:8].view(torch.float32).item() == 1.0
    assert metas[1].dtype_name == "bfloat16"
