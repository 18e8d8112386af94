"""Denominators against the authors' way of aggregating, in float64, whatever the packing and
whoever has a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdpo_megatron.actor.batches.batch_loss import token_targets
from sdpo_megatron.actor.batches.counts import StepCounts
from sdpo_megatron.actor.batches.packing import partition
from sdpo_megatron.actor.batches.table import SampleTable
from sdpo_megatron.nouns import TrainSample
from sdpo_megatron.objectives import build_objective
from sdpo_megatron.objectives.config import DistillationConfig, ObjectiveConfig
from tests.actor.worlds import made_up_samples

CPU = torch.device("cpu")
MicroBatches = Sequence[Sequence[TrainSample]]
Losses = dict[tuple[str, int], torch.Tensor]


def made_up_losses(samples: Sequence[TrainSample]) -> Losses:
    """float64 [response tokens] of each sample: stands for the divergence of each token."""
    draw = torch.Generator().manual_seed(len(samples))
    return {
        (s.question_id, s.index): torch.rand(
            len(s.response_ids), dtype=torch.float64, generator=draw
        )
        for s in samples
    }


def ours(denominator: str, micro_batches: MicroBatches, losses: Losses) -> float:
    """The sum over micro-batches of weight x loss, as the step adds it up."""
    length = 32 if denominator == "seq_mean_token_sum_norm" else None
    config = ObjectiveConfig(
        distillation=DistillationConfig(), denominator=denominator, norm_length=length
    )
    samples = [sample for micro in micro_batches for sample in micro]
    counts, total = StepCounts.of(SampleTable.of_samples(samples)), 0.0
    for micro in micro_batches:
        if micro:
            targets = token_targets(micro, counts, build_objective(config), CPU, None)
            values = torch.cat([losses[s.question_id, s.index] for s in micro])
            total += float((targets.distill_weight.double() * values).sum())
    return total


def theirs(micro_batches: MicroBatches, losses: Losses) -> float:
    """Mean over a micro-batch's tokens under response mask x teacher mask (0 where there is none),
    times the micro-batch's share of all samples.
    """
    num, total = sum(len(micro) for micro in micro_batches), 0.0
    for micro in micro_batches:
        mask = [
            float(trained and s.teacher_prompt_ids is not None)
            for s in micro
            for trained in s.loss_mask
        ]
        values = [float(v) for s in micro for v in losses[s.question_id, s.index]]
        mean = sum(v * m for v, m in zip(values, mask, strict=True)) / max(sum(mask), 1.0)
        total += mean * len(micro) / num
    return total


def packed(samples: Sequence[TrainSample], budget: int) -> list[list[TrainSample]]:
    tokens = SampleTable.of_samples(samples).longest()
    plan = partition(tokens, tokens.astype(float), num_ranks=2, token_budget=budget)
    return [[samples[i] for i in chosen] for rank in plan for chosen in rank]


SAMPLES = st.builds(
    made_up_samples, st.integers(0, 99), questions=st.integers(1, 4), attempts=st.integers(1, 5)
)


@given(samples=SAMPLES, budget=st.integers(40, 400))
def test_official_is_theirs_with_untaught_samples(samples: list[TrainSample], budget: int) -> None:
    losses, micro_batches = made_up_losses(samples), packed(samples, budget)
    assert any(sample.teacher_prompt_ids is None for sample in samples)
    expected = theirs(micro_batches, losses)
    assert ours("official", micro_batches, losses) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(samples=SAMPLES, budget=st.integers(40, 400))
def test_the_recipes_mean_over_all_samples_under_any_packing(
    samples: list[TrainSample], budget: int
) -> None:
    """What their scripts minimise: their aggregation at one sample a micro-batch."""
    losses = made_up_losses(samples)
    expected = theirs([[sample] for sample in samples], losses)
    for micro_batches in (packed(samples, budget), [[s] for s in samples], [samples]):
        found = ours("seq_mean_token_mean", micro_batches, losses)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(samples=SAMPLES, budget=st.integers(40, 400))
def test_the_sum_norm_is_theirs_at_one_sample_a_micro_batch(
    samples: list[TrainSample], budget: int
) -> None:
    """Theirs divides a micro-batch's sum by the response length alone, so that m samples in each
    micro-batch make their loss m times as large; ours is the one at m = 1.
    """
    losses = made_up_losses(samples)
    sums = [
        float((losses[s.question_id, s.index] * torch.tensor(s.loss_mask)).sum())
        for s in samples
        if s.teacher_prompt_ids is not None
    ]
    found = ours("seq_mean_token_sum_norm", packed(samples, budget), losses)
    assert found == pytest.approx(sum(sums) / 32 / len(samples), rel=1e-6, abs=1e-12)


def test_half_of_the_samples_untaught_is_half_the_loss() -> None:
    """The factor between counting all samples and counting the taught ones."""
    samples = made_up_samples(3, questions=1, attempts=2)
    ones = {key: torch.ones_like(value) for key, value in made_up_losses(samples).items()}
    assert sum(sample.teacher_prompt_ids is None for sample in samples) == 1
    for denominator in ("official", "seq_mean_token_mean"):
        assert ours(denominator, [[s] for s in samples], ones) == pytest.approx(0.5)
    assert ours("global_token", [[s] for s in samples], ones) == pytest.approx(1.0)
