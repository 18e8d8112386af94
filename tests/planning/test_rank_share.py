"""What a rank holds, against sums made by hand."""

from __future__ import annotations

import pytest

from sdpo_megatron.actor.model.config import ParallelConfig
from sdpo_megatron.planning.models import MODELS
from sdpo_megatron.planning.rank_share import layer_activation_bytes, num_parameters, parameters_on


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen3-0.6b", 0.596),  # the sizes that the models' cards name
        ("qwen3-1.7b", 1.721),
        ("qwen3-4b", 4.022),
        ("qwen3-8b", 8.191),
        ("qwen3-14b", 14.768),
        ("qwen3-32b", 32.762),
        ("qwen3-30b-a3b", 30.532),
    ],
)
def test_the_shapes_have_the_models_sizes(name: str, billions: float) -> None:
    assert num_parameters(MODELS[name]) / 1e9 == pytest.approx(billions, abs=5e-4)  # type: ignore[index]


def test_one_rank_holds_the_whole_model_a_tied_head_once() -> None:
    for name in ("qwen3-0.6b", "qwen3-8b"):
        held = parameters_on(MODELS[name], ParallelConfig(), 0)  # type: ignore[index]
        assert (held.dense, held.expert) == (num_parameters(MODELS[name]), 0)  # type: ignore[index]


def test_qwen3_8b_by_hand_on_the_stages_of_tensor_4_pipeline_2() -> None:
    spec, parallel = MODELS["qwen3-8b"], ParallelConfig(tensor=4, pipeline=2)
    query, key_value = 32 * 128 * 4096, 8 * 128 * 4096
    matrices = (2 * query + 2 * key_value + 3 * 4096 * 12288) // 4
    layer = matrices + 2 * 4096 + 2 * 128
    vocabulary = 151936 // 4 * 4096
    assert parameters_on(spec, parallel, 0).dense == 18 * layer + vocabulary
    assert parameters_on(spec, parallel, 1).dense == 18 * layer + vocabulary + 4096


def test_a_tied_head_is_a_copy_on_the_last_of_several_stages() -> None:
    spec, parallel = MODELS["qwen3-0.6b"], ParallelConfig(pipeline=2)
    first, last = (parameters_on(spec, parallel, stage).dense for stage in (0, 1))
    assert first + last == num_parameters(spec) + 151936 * 1024


def test_experts_are_spread_and_the_router_is_not() -> None:
    spec = MODELS["qwen3-30b-a3b"]
    held = parameters_on(spec, ParallelConfig(tensor=2, sequence_parallel=True, expert=8), 0)
    assert held.expert == 48 * 128 * 3 * 2048 * 768 // 8
    matrices = (2 * 32 + 2 * 4) * 128 * 2048 // 2
    layer = matrices + 2 * 2048 + 2 * 128 + 128 * 2048
    assert held.dense == 48 * layer + 2 * (151936 // 2 * 2048) + 2048


def test_activations_of_a_layer_by_hand() -> None:
    spec = MODELS["qwen3-8b"]
    one = 2 * (4 * 4096 + 2 * 6144 + 4096 + 3 * 12288) + 4 * 32
    assert layer_activation_bytes(spec, ParallelConfig()) == one == 139392
    without = 2 * (4 * 4096 + (2 * 6144 + 4096 + 3 * 12288) // 4) + 4 * 8
    assert layer_activation_bytes(spec, ParallelConfig(tensor=4)) == without
    split = ParallelConfig(tensor=4, sequence_parallel=True)
    assert layer_activation_bytes(spec, split) == one // 4


def test_activations_of_a_mixture_by_hand() -> None:
    parallel = ParallelConfig(tensor=2, sequence_parallel=True, expert=8)
    attention = 4 * 2048 + 2 * (4096 + 1024) + 4096
    experts = 8 * (2 * 2048 + 3 * 768)
    expected = 2 * (attention + experts) // 2 + 4 * 32 // 2
    assert layer_activation_bytes(MODELS["qwen3-30b-a3b"], parallel) == expected
