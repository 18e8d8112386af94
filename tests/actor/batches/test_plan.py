"""A plan holds every sample once, equal counts on all ranks, and the work that passes take."""

from __future__ import annotations

from typing import Any

import pytest

from sdpo_megatron.actor.batches.counts import StepCounts
from sdpo_megatron.actor.batches.plan import StepPlanner
from sdpo_megatron.actor.batches.share import BatchPlan, contents, filled
from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.actor.config import ActorConfig, BatchConfig, LiveTeacher
from sdpo_megatron.actor.model.config import ParallelConfig
from sdpo_megatron.nouns import TrainSample
from sdpo_megatron.objectives import DistillationConfig, ObjectiveConfig
from sdpo_megatron.weights.flops import forward_flops
from sdpo_megatron.weights.spec import ModelSpec
from tests.actor.worlds import made_up_samples

SPEC = ModelSpec(
    model_type="llama", num_layers=2, hidden=8, ffn_hidden=16, num_heads=2, num_kv_heads=1,
    head_dim=4, vocab=50, max_position=64, norm_eps=1e-6, rope_theta=1e4,
)  # fmt: skip
SAMPLES = made_up_samples(2, questions=6, attempts=5)


def plan(samples: list[TrainSample] = SAMPLES, ranks: int = 3, **changes: Any) -> list[BatchPlan]:
    given: dict[str, Any] = {
        "batch": BatchConfig(questions=6, questions_per_step=3, micro_batch_tokens=60),
        "objective": ObjectiveConfig(distillation=DistillationConfig(top_k=10)),
    }
    config = ActorConfig(**(given | changes))
    return StepPlanner(config, SPEC, num_ranks=ranks).plan(SampleTable.of_samples(samples), 0)


def weighted(samples: list[TrainSample]) -> list[TrainSample]:
    return [s for s in samples if s.distill_weight or s.policy_weight]


def test_every_sample_with_a_weight_is_in_one_place() -> None:
    places = sorted(place for rank in plan() for _, place in contents(rank))
    assert places == [i for i, s in enumerate(SAMPLES) if s.distill_weight or s.policy_weight]


def test_official_keeps_those_without_a_weight() -> None:
    objective = ObjectiveConfig(distillation=DistillationConfig(top_k=10), denominator="official")
    places = sorted(place for rank in plan(objective=objective) for _, place in contents(rank))
    assert places == list(range(len(SAMPLES)))


def test_ranks_know_the_totals_and_have_equally_many_micro_batches() -> None:
    table = SampleTable.of_samples(SAMPLES)
    for number, of_ranks in enumerate(zip(*plan(), strict=True)):
        rows = list(range(15 * number, 15 * number + 15))
        assert {step.counts for step in of_ranks} == {StepCounts.of(table, rows)}
        assert len({len(step.micro_batches) for step in of_ranks}) == 1


def test_a_rank_pads_to_its_own_longest_micro_batch_unless_experts_are_shared() -> None:
    alone = TrainSample(
        question_id="long", index=0, prompt_ids=[1] * 40, response_ids=[1] * 20,
        loss_mask=[True] * 20, log_probs=[0.0] * 20,
    )  # fmt: skip
    first, second = plan([alone], ranks=2)
    assert first[0].lengths["student"] == 59
    assert second[0].lengths["student"] == 1  # nothing to do but padding
    shared = plan([alone], ranks=2, parallel=ParallelConfig(expert=2))
    assert {rank[0].lengths["student"] for rank in shared} == {59}


def test_a_null_length_is_there_where_all_that_is_distilled_can_be_read_so() -> None:
    assert all("null" in step.lengths for rank in plan() for step in rank)
    taught = [s for s in SAMPLES if s.distill_weight]
    without = TrainSample(
        question_id="q0", index=9, prompt_ids=[1], response_ids=[1], loss_mask=[True],
        log_probs=[0.0], teacher_prompt_ids=[1],
    )  # fmt: skip
    assert not any("null" in step.lengths for rank in plan([*taught, without]) for step in rank)


@pytest.mark.parametrize("off_policy", [False, True])
def test_work_is_the_teachers_pass_and_three_or_four_of_the_student(off_policy: bool) -> None:
    objective = ObjectiveConfig(distillation=DistillationConfig(top_k=10), off_policy=off_policy)
    planned = plan(objective=objective, teacher=LiveTeacher(), batch=BatchConfig(questions=6))

    def passes(sample: TrainSample) -> float:
        response = len(sample.response_ids)
        own = len(sample.prompt_ids)
        taught = sample.teacher_prompt_ids
        read = own if taught is None else len(taught)
        student = forward_flops(SPEC, own + response - 1, response)
        return (3 + off_policy) * student + forward_flops(SPEC, read + response - 1, response)

    total = sum(passes(s) for s in weighted(SAMPLES))
    assert planned[0][0].flops == pytest.approx(total)
    loads = [sum(passes(SAMPLES[place]) for _, place in contents(rank)) for rank in planned]
    assert sum(loads) == pytest.approx(total)
    assert max(loads) - min(loads) <= max(passes(s) for s in SAMPLES)


def test_a_share_is_its_plan_with_the_samples_in_their_places() -> None:
    for rank in plan():
        share = filled(rank, [SAMPLES[place] for _, place in contents(rank)])
        for step, told in zip(share, rank, strict=True):
            assert [[s.index for s in part] for part in step.micro_batches] == [
                [SAMPLES[place].index for _, place in part] for part in told.micro_batches
            ]


def test_nothing_to_plan_is_one_step_of_padding() -> None:
    for rank in plan([], ranks=2, batch=BatchConfig(questions=6)):
        (step,) = rank
        assert step.counts.trained_tokens == 0
        assert contents(rank) == []
