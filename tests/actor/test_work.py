"""What ranks tell of themselves, and the operations of a pass."""

from __future__ import annotations

from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.actor.work import over_ranks, pass_flops
from sdpo_megatron.nouns import TrainSample
from sdpo_megatron.weights.flops import forward_flops
from sdpo_megatron.weights.spec import ModelSpec
from tests.distributed import run_ranks


def measured(rank: int, world: int) -> dict[str, float]:
    return over_ranks(
        {"student_s": (2.0, 5.0, 2.0)[rank], "memory_bytes": (100.0, 50.0, 0.0)[rank]}
    )


def test_every_rank_knows_the_least_the_mean_the_most_and_the_slowest() -> None:
    expected = {
        "ranks/student_s_min": 2.0,
        "ranks/student_s_mean": 3.0,
        "ranks/student_s_max": 5.0,
        "ranks/memory_bytes_min": 0.0,
        "ranks/memory_bytes_mean": 50.0,
        "ranks/memory_bytes_max": 100.0,
        "ranks/slowest": 1.0,
    }
    assert run_ranks(measured, 3) == [expected] * 3


def test_a_pass_reads_the_prompt_of_its_role_and_never_feeds_the_last_token() -> None:
    spec = ModelSpec(
        model_type="llama", num_layers=1, hidden=2, ffn_hidden=3, num_heads=1, num_kv_heads=1,
        head_dim=2, vocab=5, max_position=16, norm_eps=1e-6, rope_theta=1e4,
    )  # fmt: skip
    sample = TrainSample(
        question_id="q", index=0, prompt_ids=(1, 2), teacher_prompt_ids=(1, 2, 3, 4),
        response_ids=(1, 2, 3), loss_mask=(True,) * 3, log_probs=(0.0,) * 3,
    )  # fmt: skip
    table = SampleTable.of_samples([sample, sample])
    assert pass_flops(spec, table, "student").tolist() == [forward_flops(spec, 4, 3)] * 2
    assert pass_flops(spec, table, "teacher").tolist() == [forward_flops(spec, 6, 3)] * 2
