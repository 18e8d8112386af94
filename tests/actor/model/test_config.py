"""Layouts and precisions that cannot work are refused, saying which can."""

from __future__ import annotations

from typing import Any

import pytest

from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.weights.spec import ModelSpec, MoeSpec

SMOLLM2 = ModelSpec(
    model_type="llama",
    num_layers=30,
    hidden=576,
    ffn_hidden=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab=49152,
    max_position=8192,
    norm_eps=1e-5,
    rope_theta=1e5,
)
MOE = ModelSpec(
    **{
        **vars(SMOLLM2),
        "num_heads": 8,
        "num_kv_heads": 4,
        "model_type": "qwen3_moe",
        "moe": MoeSpec(num_experts=6, top_k=2, ffn_hidden=32, normalise_top_k=True),
    }
)


@pytest.mark.parametrize(
    ("spec", "layout", "message"),
    [
        (
            SMOLLM2,
            {"tensor": 2},
            r"parallel.tensor=2 does not divide num_attention_heads 9 and num_key_value_heads 3 "
            r"and intermediate_size 1536; possible here: 1, 3$",
        ),
        (
            SMOLLM2,
            {"pipeline": 4},
            r"parallel.pipeline=4 does not divide num_hidden_layers 30; possible here: 1, 2, 3, 5, "
            r"6, 10, 15, 30$",
        ),
        (SMOLLM2, {"expert": 2}, "llama has no experts"),
        (MOE, {"expert": 4}, r"num_experts 6; possible here: 1, 2, 3, 6$"),
        (MOE, {"tensor": 2, "expert_tensor": 2}, "needs parallel.sequence_parallel=true"),
        (MOE, {"tensor": 2, "sequence_parallel": True}, "set expert_tensor=2, or spread"),
        (
            SMOLLM2,
            {"pipeline": 2, "recompute": "full", "recompute_layers": 16},
            "recompute_layers=16: a pipeline stage has 15 layers",
        ),
    ],
)
def test_a_layout_that_does_not_divide_the_model(
    spec: ModelSpec, layout: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ParallelConfig(**layout).check_model(spec)


@pytest.mark.parametrize(
    ("spec", "layout"),
    [
        (SMOLLM2, {"tensor": 3, "pipeline": 2, "sequence_parallel": True}),
        (MOE, {"expert": 3, "pipeline": 2}),
        (MOE, {"tensor": 2, "expert": 2, "sequence_parallel": True}),
    ],
)
def test_a_layout_that_divides_the_model(spec: ModelSpec, layout: dict[str, Any]) -> None:
    ParallelConfig(**layout).check_model(spec)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"tensor": 0}, "tensor=0: must be at least 1"),
        ({"sequence_parallel": True}, "needs tensor > 1"),
        ({"recompute": "some"}, "expected one of none, selective, full"),
        ({"recompute_parts": ("feed_forward",)}, r"recompute_parts=.*without recompute=selective"),
        ({"recompute": "selective", "recompute_parts": ("norm",)}, "attention, feed_forward"),
        ({"recompute": "selective", "recompute_parts": ()}, r"recompute_parts=\[\]"),
        ({"recompute": "selective", "recompute_layers": 2}, "does nothing without recompute=full"),
    ],
)
def test_a_layout_that_contradicts_itself(layout: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ParallelConfig(**layout)


@pytest.mark.parametrize(
    ("layout", "world_size", "fits"),
    [
        ({"tensor": 2, "pipeline": 2}, 4, True),
        ({"tensor": 2, "pipeline": 2}, 8, True),
        ({"tensor": 2, "pipeline": 2}, 6, False),
        ({"expert": 4, "pipeline": 2}, 8, True),
        ({"expert": 4, "pipeline": 2}, 4, False),
    ],
)
def test_the_world_must_hold_the_layout(
    layout: dict[str, Any], world_size: int, fits: bool
) -> None:
    if fits:
        ParallelConfig(**layout).check_world(world_size)
    else:
        with pytest.raises(ConfigError, match=r"start a multiple of \d+ ranks"):
            ParallelConfig(**layout).check_world(world_size)


@pytest.mark.parametrize(
    ("layout", "multiple"),
    [
        ({}, 1),
        ({"tensor": 2}, 1),
        ({"tensor": 2, "sequence_parallel": True}, 2),
        ({"tensor": 2, "sequence_parallel": True, "context": 3}, 12),
    ],
)
def test_packed_lengths_that_can_be_split(layout: dict[str, Any], multiple: int) -> None:
    assert ParallelConfig(**layout).sequence_multiple == multiple


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "fp16"}, "expected one of fp32, bf16"),
        ({"fp8": "int8"}, "expected one of tensorwise"),
        ({"dtype": "fp32", "fp8": "tensorwise"}, "set dtype=bf16"),
        ({"fp8": "delayed"}, "expected one of tensorwise, blockwise, mxfp8"),
        ({"fp8": "tensorwise", "fp8_format": "e5m2"}, "expected one of hybrid, e4m3"),
        ({"bf16_layers": 2}, "does nothing without fp8"),
        ({"fp8": "tensorwise", "bf16_layers": -1}, "bf16_layers=-1"),
    ],
)
def test_a_precision_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrecisionConfig(**settings)


@pytest.mark.parametrize(
    ("layout", "multiple"),
    [
        ({}, 128),
        ({"tensor": 4}, 128),
        ({"tensor": 4, "sequence_parallel": True}, 512),
        ({"tensor": 2, "sequence_parallel": True, "context": 3}, 768),
    ],
)
@pytest.mark.parametrize("recipe", ["tensorwise", "blockwise", "mxfp8"])
def test_under_fp8_each_rank_gets_whole_tiles_of_tokens(
    recipe: str, layout: dict[str, Any], multiple: int
) -> None:
    parallel = ParallelConfig(**layout)
    found = PrecisionConfig(fp8=recipe).sequence_multiple(parallel)
    assert found == multiple
    assert found % parallel.sequence_multiple == 0
    assert PrecisionConfig().sequence_multiple(parallel) == parallel.sequence_multiple


@pytest.mark.parametrize(
    ("recipe", "capability", "message"),
    [
        ("tensorwise", None, "needs a GPU; set precision.fp8=null"),
        (
            "tensorwise",
            (8, 0),
            r"capability 8.0, and tensorwise needs 8.9 or more; possible here: "
            "precision.fp8=null only",
        ),
        ("mxfp8", (9, 0), r"mxfp8 needs 10.0 or more; possible here: tensorwise, blockwise"),
        ("blockwise", (8, 9), r"needs 9.0 or more and below 10.0; possible here: tensorwise"),
        ("blockwise", (10, 0), "possible here: tensorwise, mxfp8"),
    ],
)
def test_a_recipe_that_the_card_cannot_do(
    recipe: str, capability: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PrecisionConfig(fp8=recipe).check_device(capability, "a card")


@pytest.mark.parametrize(
    ("recipe", "capability"),
    [("tensorwise", (8, 9)), ("blockwise", (9, 0)), ("mxfp8", (10, 0)), ("tensorwise", (12, 0))],
)
def test_a_recipe_that_the_card_can_do(recipe: str, capability: tuple[int, int]) -> None:
    PrecisionConfig(fp8=recipe).check_device(capability, "a card")
    PrecisionConfig().check_device(None, "the CPU")


@pytest.mark.parametrize(
    ("recipe", "spec", "layout", "message"),
    [
        # 576 = 4.5 x 128; 1536 / 32 = 48.
        ("blockwise", SMOLLM2, {}, "hidden_size is 576, and its products need a multiple of 128"),
        ("mxfp8", MOE, {"expert_tensor": 2}, "moe_intermediate_size / expert_tensor is 16"),
    ],
)
def test_a_share_that_is_not_made_of_whole_tiles(
    recipe: str, spec: ModelSpec, layout: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PrecisionConfig(fp8=recipe).check_model(spec, ParallelConfig(**layout))


def test_layers_in_bf16_must_be_on_the_first_and_last_stage() -> None:
    precision = PrecisionConfig(fp8="tensorwise", bf16_layers=6)
    precision.check_model(SMOLLM2, ParallelConfig(pipeline=5))
    with pytest.raises(ConfigError, match="does not fit the 5 layers"):
        precision.check_model(SMOLLM2, ParallelConfig(pipeline=6))
