"""Block-wise FP8 against numbers made by hand, its error bound, and SGLang's own reading of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sdpo_megatron.errors import ConfigError, NumericsError
from sdpo_megatron.planning.models import MODELS
from sdpo_megatron.weights import fp8
from sdpo_megatron.weights.bucket import Bucket, TensorMeta
from sdpo_megatron.weights.mapping import hf_shapes


def random(rows: int, columns: int, *, seed: int = 0) -> torch.Tensor:
    """bf16, with blocks of very different size."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator)
    sizes = torch.rand(rows, columns, generator=generator) * 12 - 8
    return (values * sizes.exp2()).bfloat16()


def test_one_block_by_hand() -> None:
    """Largest 896 = 2 x 448: scale 2. e4m3 near 1 has steps of 1/8, below 2^-6 of 2^-9."""
    weight = torch.zeros(2, 3)
    weight[0] = torch.tensor([896.0, -2.2, 2.0 + 0.125])
    weight[1] = torch.tensor([2.0**-9, 2.0**-8 * 1.5, -896.0])
    quantised, scale = fp8.quantise(weight)
    assert quantised.dtype == torch.float8_e4m3fn
    assert scale.tolist() == [[2.0]]
    # -1.1 -> -1.125; 1.0625 is half-way: to the even mantissa, 1.0; 2^-10 is half-way to 0.
    assert quantised.float().tolist() == [[448.0, -1.125, 1.0], [0.0, 2.0**-8, -448.0]]
    back = fp8.dequantise(quantised, scale, torch.float32)
    assert back.tolist() == [[896.0, -2.25, 2.0], [0.0, 2.0**-7, -896.0]]


def test_each_block_has_its_own_scale_also_at_ragged_ends() -> None:
    weight = torch.zeros(130, 257)
    largest = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    for i, rows in enumerate((slice(0, 128), slice(128, 130))):
        for j, columns in enumerate((slice(0, 128), slice(128, 256), slice(256, 257))):
            weight[rows, columns] = largest[i, j]
    quantised, scale = fp8.quantise(weight)
    assert quantised.shape == (130, 257)
    assert torch.equal(scale, largest / 448)
    assert torch.equal(quantised.float(), torch.full((130, 257), 448.0))
    assert torch.allclose(fp8.dequantise(quantised, scale, torch.float32), weight, rtol=1e-6)


@pytest.mark.parametrize("shape", [(128, 128), (256, 384), (1, 1), (127, 129), (300, 200)])
def test_the_error_is_within_half_a_step_of_e4m3(shape: tuple[int, int]) -> None:
    weight = random(*shape).float()
    quantised, scale = fp8.quantise(weight)
    whole = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    error = (fp8.dequantise(quantised, scale, torch.float32) - weight).abs()
    bound = torch.maximum(weight.abs() / 16, whole / 1024)
    assert (error <= bound * (1 + 1e-5)).all()
    assert (error / bound).max() > 0.9 or shape == (1, 1)  # and is no looser than it must be


def test_blocks_of_zeros_and_of_tiny_numbers_stay_finite() -> None:
    weight = torch.zeros(128, 256)
    weight[:, 128:] = 1e-38
    quantised, scale = fp8.quantise(weight)
    assert torch.isfinite(scale).all()
    assert torch.equal(fp8.dequantise(quantised, scale, torch.float32)[:, :128], weight[:, :128])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_by_name(bad: float) -> None:
    weight = torch.ones(4, 4)
    weight[1, 2] = bad
    name = "model.layers.3.mlp.up_proj.weight"
    with pytest.raises(NumericsError, match=name.replace(".", r"\.")):
        list(fp8.encode(name, weight))


@pytest.mark.parametrize(
    ("name", "quantised"),
    [
        ("model.layers.0.self_attn.q_proj.weight", True),
        ("model.layers.0.self_attn.o_proj.weight", True),
        ("model.layers.11.mlp.down_proj.weight", True),
        ("model.layers.11.mlp.experts.127.gate_proj.weight", True),
        ("model.layers.0.self_attn.q_proj.bias", False),
        ("model.layers.0.self_attn.q_norm.weight", False),
        ("model.layers.0.input_layernorm.weight", False),
        ("model.layers.0.mlp.gate.weight", False),  # a mixture's router
        ("model.embed_tokens.weight", False),
        ("model.norm.weight", False),
        ("lm_head.weight", False),
    ],
)
def test_matrices_of_layers_are_quantised_and_nothing_else(name: str, quantised: bool) -> None:
    assert fp8.is_quantised(name) == quantised
    tensor = torch.ones(3, 5, dtype=torch.bfloat16)
    written = dict(fp8.encode(name, tensor))
    if quantised:
        assert {key: value.dtype for key, value in written.items()} == {
            name: torch.float8_e4m3fn,
            name + "_scale_inv": torch.float32,
        }
    else:
        assert written == {name: tensor}


@pytest.mark.parametrize("name", ["qwen3-0.6b", "qwen3-30b-a3b"])
def test_the_announced_layout_is_that_of_what_is_written(name: Any) -> None:
    shapes = hf_shapes(MODELS[name])
    told = fp8.layout(shapes, torch.bfloat16)
    one = "model.layers.0.self_attn.k_proj.weight"
    assert told[one] == (shapes[one], torch.float8_e4m3fn)
    assert told[one + "_scale_inv"] == (
        (shapes[one][0] // 128, shapes[one][1] // 128),
        torch.float32,
    )
    layer = [n for n in shapes if n.startswith(("model.layers.0.", "model.norm"))][:40]
    for tensor_name in layer:
        tensor = torch.zeros(shapes[tensor_name], dtype=torch.bfloat16)
        for written, value in fp8.encode(tensor_name, tensor):
            assert told[written] == (tuple(value.shape), value.dtype)


def test_what_is_served_is_what_comes_back() -> None:
    name, weight = "model.layers.0.mlp.up_proj.weight", random(256, 130)
    written = dict(fp8.encode(name, weight))
    back = fp8.dequantise(written[name], written[name + fp8.SCALE])
    assert torch.equal(fp8.served(name, written), back)
    assert not torch.equal(back, weight)
    norm = torch.ones(4, dtype=torch.bfloat16)
    assert fp8.served("model.norm.weight", {"model.norm.weight": norm}) is norm


def test_a_checkpoint_s_tensors_as_they_are_served_in_any_order() -> None:
    name, weight = "model.layers.0.mlp.up_proj.weight", random(256, 128)
    written = [*fp8.encode(name, weight), ("model.norm.weight", torch.ones(4))]
    for order in (written, written[::-1]):
        found = dict(fp8.served_tensors(order))
        assert found.keys() == {name, "model.norm.weight"}
        assert torch.equal(found[name], fp8.served(name, dict(written)))
    with pytest.raises(AssertionError, match="up_proj"):
        list(fp8.served_tensors(written[:1]))


def test_buckets_are_quantised_into_the_memory_that_they_travel_in() -> None:
    name, weight = "model.layers.0.mlp.up_proj.weight", random(256, 128)
    norm = torch.arange(4.0).bfloat16()
    metas = (
        TensorMeta("model.norm.weight", (4,), torch.bfloat16),
        TensorMeta(name, (256, 128), torch.bfloat16),
    )
    flat = torch.cat([norm.view(torch.uint8), weight.reshape(-1).view(torch.uint8)])
    given: list[torch.Tensor] = []

    def buffers(size: int) -> torch.Tensor:
        given.append(torch.zeros(size, dtype=torch.uint8))
        return given[-1]

    bucket, nothing = fp8.encoded([Bucket(metas, flat), None], buffers)
    assert nothing is None
    assert bucket is not None
    assert bucket.flat is given[0]
    assert bucket.num_bytes == 8 + 256 * 128 + 2 * 4
    found = dict(bucket.tensors())
    expected = dict(fp8.encode(name, weight)) | {"model.norm.weight": norm}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key].float(), expected[key].float()) for key in expected)


@pytest.mark.parametrize(
    ("tp", "change", "message"),
    [
        (1, {}, ""),
        (8, {}, ""),
        (16, {}, ""),  # 8 key-value heads of 128: held twice
        (1, {"hidden": 4000}, "hidden_size is 4000 with rollout.engine.tp=1"),
        (8, {"ffn_hidden": 12160}, "intermediate_size / tp is 1520 with rollout.engine.tp=8"),
        (8, {"head_dim": 64}, "num_key_value_heads x head_dim / tp is 64"),
    ],
)
def test_layouts_whose_blocks_would_be_cut_are_refused(
    tp: int, change: dict[str, int], message: str
) -> None:
    spec = replace(MODELS["qwen3-8b"], **change)  # type: ignore[arg-type]
    if not message:
        fp8.check_layout(spec, tp)
        return
    with pytest.raises(ConfigError, match=message):
        fp8.check_layout(spec, tp)
