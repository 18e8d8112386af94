"""Models of Transformer Engine's layers hold what the mapping and the checkpoints say.

`make test-te` installs it on a machine without a GPU and runs these; elsewhere they are skipped.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sdpo_megatron.weights.mapping import local_name, params
from sdpo_megatron.weights.spec import ModelSpec
from tests.actor import tiny_models
from tests.actor.model import te_ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("transformer_engine") is None,
        reason="Transformer Engine is not installed here: make test-te",
    ),
]

WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 128}
SPLIT = {"tensor": 2, "sequence_parallel": True}
CASES: list[tuple[str, dict[str, Any], str | None]] = [
    ("llama", {}, None),
    ("llama", {"tensor": 2}, None),
    ("llama3_tied", {"pipeline": 2}, None),
    ("llama3_tied", {**SPLIT, "pipeline": 2}, None),
    ("qwen2", SPLIT, None),
    ("qwen2_tied", {"tensor": 2, "pipeline": 2}, None),
    ("qwen3", {}, None),
    ("qwen3", {**SPLIT, "pipeline": 2}, None),
    ("qwen3_tied", {"context": 2}, None),
    ("qwen3_moe", {}, None),
    ("qwen3_moe", {"expert": 4}, None),
    ("qwen3_moe", {**SPLIT, "expert": 2}, None),
    ("qwen3_moe", {**SPLIT, "expert_tensor": 2}, None),
    ("qwen3_moe_raw", {"expert": 2, "pipeline": 2}, None),
    ("qwen3_wide", {}, "tensorwise"),
    ("qwen3_wide", SPLIT, "blockwise"),
]
IDS = [f"{family}-{'-'.join(map(str, layout))}-{fp8 or 'bf16'}" for family, layout, fp8 in CASES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("te")
    kinds = tiny_models.FAMILIES | tiny_models.MOE_FAMILIES
    tiny_models.FAMILIES["qwen3_wide"] = (kinds["qwen3"][0], {**kinds["qwen3"][1], **WIDE})
    try:
        for name in dict.fromkeys(family for family, _, _ in CASES):
            tiny_models.make(name, root / name)
    finally:
        del tiny_models.FAMILIES["qwen3_wide"]
    return {name: root / name for name, _, _ in CASES}


@pytest.fixture(scope="module")
def outcomes(folders: dict[str, Path]) -> list[list[dict[str, Any]]]:
    """By case: what each rank said."""
    cases = [(str(folders[family]), layout, fp8) for family, layout, fp8 in CASES]
    by_rank = te_ranks.on_ranks(cases)
    return [[of_rank[number] for of_rank in by_rank] for number in range(len(CASES))]


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_parameters_are_those_of_the_mapping(
    number: int, outcomes: Any, folders: dict[str, Path]
) -> None:
    spec = ModelSpec.from_folder(folders[CASES[number][0]])
    for rank in outcomes[number]:
        assert rank["layer"] == "TELayerNormColumnParallelLinear"
        assert rank["dtypes"] == {"torch.bfloat16"}  # under FP8, too
        expected = {param.name: param.shape for param in params(spec, rank["position"])}
        assert {local_name(name): shape for name, shape in rank["shapes"].items()} == expected


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_what_is_loaded_is_what_is_gathered(
    number: int, outcomes: Any, folders: dict[str, Path]
) -> None:
    source = load_file(folders[CASES[number][0]] / "model.safetensors")
    gathered = outcomes[number][0]["gathered"]
    assert gathered.keys() == source.keys()
    for name, tensor in source.items():
        assert torch.equal(gathered[name], tensor.bfloat16()), name


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_every_parameter_goes_into_checkpoints(number: int, outcomes: Any) -> None:
    for rank in outcomes[number]:
        assert rank["unsaved"] == []
        assert not any("_extra_state" in key for key in rank["keys"])


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_shards_and_experts_are_marked(
    number: int, outcomes: Any, folders: dict[str, Path]
) -> None:
    """The gradient norm counts marked shards of every tensor-parallel rank, and whole parameters
    once; experts' gradients are reduced over their own group where they are spread; norms under
    sequence parallelism are summed over the tensor-parallel ranks."""
    _, layout, _ = CASES[number]
    spec = ModelSpec.from_folder(folders[CASES[number][0]])
    tensor, spread = layout.get("tensor", 1) > 1, layout.get("expert", 1) > 1
    for rank in outcomes[number]:
        mapped = {param.name: param for param in params(spec, rank["position"])}
        for name, marks in rank["marks"].items():
            param = mapped[local_name(name)]
            if param.is_expert:
                assert marks["allreduce"] is not True if spread else marks["allreduce"] is not False
                continue
            whole = all(piece.axis == 0 for piece in param.pieces) and len(param.shape) == 1
            router = name.endswith("router.weight")
            if tensor and not whole and not router:
                assert marks["tensor_model_parallel"] is True, name
                axis = 1 if name.endswith(("linear_proj.weight", "linear_fc2.weight")) else 0
                assert marks["partition_dim"] == axis, name
            if layout.get("sequence_parallel") and (
                name.endswith("norm.weight") or "layer_norm" in name or "q_layernorm" in name
            ):
                assert marks["sequence_parallel"] is True, name


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_products_add_weight_gradients_in_float32(number: int, outcomes: Any) -> None:
    for rank in outcomes[number]:
        told = rank["in float32"]
        assert all(told.values())
        # Every matrix of a layer: two of attention, two of the feed-forward layer or its experts.
        layers = {name.split(".")[2] for name in told}
        assert len(told) == 4 * len(layers)


def test_checkpoints_have_the_keys_of_those_of_local_layers(
    outcomes: Any, folders: dict[str, Path]
) -> None:
    """A run that was begun without Transformer Engine goes on with it."""
    from tests.distributed import run_ranks

    number = CASES.index(("qwen3", {}, None))
    ours = run_ranks(local_keys, 1, str(folders["qwen3"]))[0]
    assert outcomes[number][0]["keys"] == ours


def local_keys(rank: int, world: int, folder: str) -> list[str]:
    from sdpo_megatron.actor.checkpoint.pieces import parts_of
    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel

    init_model_parallel(ParallelConfig())
    spec = ModelSpec.from_folder(folder)
    (model,) = build_model(spec, ParallelConfig(), PrecisionConfig(dtype="bf16"))
    return sorted({part.key for some in parts_of([model]).values() for part in some})


@pytest.mark.parametrize(
    ("fp8", "recipe"),
    [("tensorwise", "Float8CurrentScaling"), ("blockwise", "Float8BlockScaling")],
)
def test_the_recipe_is_transformer_engine_s_and_can_be_left(
    fp8: str, recipe: str, outcomes: Any
) -> None:
    number = next(n for n, case in enumerate(CASES) if case[2] == fp8)
    for rank in outcomes[number]:
        assert rank["recipe"] == (recipe, "HYBRID")
        assert (rank["on"], rank["off"]) == (True, False)
