"""The memory sheet, row by row, against sums made by hand."""

from __future__ import annotations

import pytest

from sdpo_megatron import config as configs
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.hardware import GIB, MIB, Machines
from sdpo_megatron.planning.memory import memory_sheet, scoring_passes, weight_sets
from sdpo_megatron.planning.models import MODELS

SPEC = MODELS["qwen3-8b"]
APART = Machines.of("h100", nodes=1, engine_nodes=1)


def composed(*overrides: str, experiment: str = "science") -> TrainConfig:
    base = [f"experiment={experiment}", "model.path=/m", "task.path=/t", "parallel.tensor=4"]
    return configs.load([*base, "run.data_parallel=2", *overrides])


def rows(config: TrainConfig, machines: Machines = APART) -> dict[str, int]:
    return {line.name: line.bytes for line in memory_sheet(config, SPEC, machines).lines}


def test_qwen3_8b_on_tensor_4_data_2_by_hand() -> None:
    layer = (2 * 16777216 + 2 * 4194304 + 3 * 4096 * 12288) // 4 + 2 * 4096 + 2 * 128
    held = 36 * layer + 2 * (37984 * 4096) + 4096
    owned = -(-held // 2)
    tokens, response = 18432, 8192
    assert rows(composed()) == {
        "bf16 weights": 2 * held,
        "fp32 gradients": 4 * held,
        "master weights": 4 * owned,
        "moments": 8 * owned,
        "weight sets": 4 * owned,
        "activations": 36 * 34848 * tokens,
        # 32 questions x 8 attempts / 2, shared by 4 ranks
        "teacher's hidden states": 128 * response * 8192 // 4,
        "those of one micro-batch": tokens * 8192,
        "hidden states of the loss": tokens * 4096 * 6,
        "heads of other weight sets": 2 * 37984 * 4096,
        "gradient of the head": 4 * 37984 * 4096,
        "logits of a chunk": 830 * MIB,
        "engine": 0,
        "CUDA, NCCL, fragments": 3 * GIB + 81559 * MIB // 20,
    }


def test_an_optimiser_step_a_question_keeps_the_hidden_states_of_one() -> None:
    config = composed("batch.questions_per_step=1", "objective.off_policy=true")
    assert rows(config)["teacher's hidden states"] == 8192 * 8192
    assert rows(composed("teacher.keep_hidden_on_host=true"))["teacher's hidden states"] == 0


def test_weight_sets_on_the_host_are_not_on_the_gpu() -> None:
    assert rows(composed("teacher.keep_weights_on_host=true"))["weight sets"] == 0


def test_fp32_weights_are_their_own_masters() -> None:
    found, bf16 = rows(composed("precision=fp32")), rows(composed())
    assert found["fp32 weights"] == 2 * bf16["bf16 weights"]
    assert found["master weights"] == 0


def test_recomputation_keeps_inputs_and_one_layer() -> None:
    full = "parallel.recompute=full"
    found = rows(composed(full))
    assert found["recomputed layers' inputs"] == 36 * (2 * 4096 // 4) * 18432
    assert "activations" not in found
    assert found["one layer recomputed"] == 34848 * 18432

    some = rows(composed(full, "parallel.recompute_layers=10"))
    assert some["recomputed layers' inputs"] == 10 * (2 * 4096 // 4) * 18432
    assert some["activations"] == 26 * 34848 * 18432
    assert some["one layer recomputed"] == 34848 * 18432


def test_a_recomputed_feed_forward_layer_keeps_nothing_of_its_own() -> None:
    parts = "parallel.recompute_parts=[feed_forward]"
    found = rows(composed("parallel.recompute=selective", parts))
    assert found["activations"] == 36 * (34848 - 2 * 3 * 12288 // 4) * 18432
    assert found["one layer recomputed"] == 34848 * 18432
    attention = rows(composed("parallel.recompute=selective"))
    assert attention["activations"] == 36 * 34848 * 18432
    assert "one layer recomputed" not in attention


def test_stages_have_as_many_micro_batches_in_flight_and_the_fullest_counts() -> None:
    config = composed("parallel.pipeline=2", "run.data_parallel=1")
    sheet = memory_sheet(config, SPEC, APART)
    found = {line.name: line.bytes for line in sheet.lines}
    assert found["activations"] == 18 * 34848 * 18432 * 2
    assert sheet.title == "tensor 4, pipeline 2, stage 1"


def test_experts_are_owned_by_their_own_data_parallel_groups() -> None:
    machines = Machines.of("h200", nodes=2, engine_nodes=1)
    config = composed("parallel.tensor=2", "parallel.expert=8", "run.data_parallel=8")
    lines = memory_sheet(config, MODELS["qwen3-30b-a3b"], machines).lines
    found = {line.name: line.bytes for line in lines}
    dense = 48 * (72 * 128 * 2048 // 2 + 2 * 2048 + 256 + 128 * 2048) + 151936 * 2048 + 2048
    expert = 48 * 128 * 3 * 2048 * 768 // 8
    assert found["bf16 weights"] == 2 * (dense + expert)
    assert found["moments"] == 8 * (-(-dense // 8) + expert // 2)  # 16 ranks, experts over 8


@pytest.mark.parametrize(
    ("overrides", "sets", "passes"),
    [
        ((), ("ema",), 1),
        (("teacher=frozen",), ("initial",), 1),
        (("teacher=trust_region",), ("initial",), 2),
        (("teacher=restart_freeze",), ("restarted",), 1),
        (("objective=sdpo_null_corrected",), ("ema",), 2),
        (("objective=grpo",), (), 0),
        (("objective=grpo_kl",), ("initial",), 1),
    ],
)
def test_weight_sets_and_passes_are_those_of_the_actor(
    overrides: tuple[str, ...], sets: tuple[str, ...], passes: int
) -> None:
    from sdpo_megatron.actor.teacher import teacher_passes, weight_set_names
    from sdpo_megatron.objectives import build_objective

    config = composed(*overrides)
    objective = build_objective(config.objective)
    assert weight_sets(config) == weight_set_names(config.teacher, objective) == sets
    roles = ["teacher"] * objective.needs_teacher + ["null"] * objective.needs_null_teacher
    of_actor = len(teacher_passes(config.teacher, *roles)) + objective.needs_reference
    assert scoring_passes(config) == of_actor == passes


def test_an_engine_on_the_same_gpus_takes_its_fraction() -> None:
    shared = Machines.of("h100")
    config = composed("rollout.engine.mem_fraction=0.4")
    assert rows(config, shared)["engine"] == round(0.4 * 81559 * MIB)
    turns = composed("rollout.engine.mem_fraction=0.6", "rollout.engine.release_memory=true")
    found = rows(turns, shared)
    of_a_pass = ("activations", "teacher's hidden states", "hidden states of the loss")
    of_a_pass += ("heads of other weight sets", "gradient of the head", "logits of a chunk")
    of_a_pass += ("those of one micro-batch",)
    passing = sum(found[name] for name in of_a_pass)
    assert found["engine"] == max(0, round(0.6 * 81559 * MIB) - passing) > 0
    with pytest.raises(ConfigError, match=r"mem_fraction=0 lets .* \(engine_nodes\)"):
        rows(composed("rollout.engine.mem_fraction=0"), shared)


def test_a_sheet_shows_its_arithmetic_and_its_total() -> None:
    sheet = memory_sheet(composed(), SPEC, APART, title="qwen3-8b on H100 80 GB: ")
    lines = str(sheet).splitlines()
    assert lines[0] == "qwen3-8b on H100 80 GB: tensor 4, data 2, stage 0"
    assert "36 layers x 34,848 B x 18,432 tokens x 1 in flight" in lines[6]
    assert lines[-2].split() == ["total", f"{sum(rows(composed()).values()) / GIB:.2f}", "GiB"]
    assert lines[-1].split() == ["of", "the", "GPU", f"{81559 / 1024:.2f}", "GiB"]
