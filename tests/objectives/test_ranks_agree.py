"""Tensor-parallel ranks hold the same loss, sums, log-probs and grad_hidden, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdpo_megatron.objectives import DistillationConfig, ObjectiveConfig, build_objective
from sdpo_megatron.objectives.fused.chunk import ChunkScorer
from sdpo_megatron.objectives.fused.shards import VocabShard
from tests.objectives import variants
from tests.objectives.cases import Case, Outcome, run
from tests.objectives.ranks import Ranks

FULL = ObjectiveConfig(distillation=DistillationConfig(top_k=None))
RUNS = 30


class Told(VocabShard):
    """A shard in one process whose collective answers what it was told."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return self.answer  # type: ignore[no-any-return, attr-defined]


def scorer(answer: torch.Tensor) -> ChunkScorer:
    shard = Told(start=0, rows=1, size=4, group=None)
    object.__setattr__(shard, "answer", answer)
    weight = torch.zeros(1, 1)
    return ChunkScorer(build_objective(FULL), weight, shard, 1.0, None, None, 1)


def test_a_sum_over_ranks_is_the_collectives_and_not_rounded_again_on_each_rank() -> None:
    """local + (sum - local) differs from the sum in a tenth of these, on one rank or another."""
    parts = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    total = parts.sum(0)
    for part in parts:
        assert torch.equal(scorer(total)._total_over_ranks(part[:, None]), total)


def test_the_gradient_of_a_sum_over_ranks_reaches_ones_own_entries() -> None:
    entries = torch.tensor([[0.3, 0.4], [0.1, 0.2]], requires_grad=True)
    total = scorer(torch.tensor([5.0, 7.0]))._total_over_ranks(entries)
    total.dot(torch.tensor([2.0, 3.0])).backward()  # type: ignore[no-untyped-call]
    assert entries.grad is not None
    assert torch.equal(entries.grad, torch.tensor([[2.0, 2.0], [3.0, 3.0]]))


def many(group: Any, rank: int, world: int, configs: list[ObjectiveConfig]) -> list[Outcome]:
    sizes = {"tokens": 24, "hidden": 16, "vocab": 301, "chunk_tokens": 20}
    return [
        run(Case(config=config, seed=seed, **sizes), group, rank, world)
        for config in configs
        for seed in range(RUNS)
    ]


def check_agreement(ranks: Ranks) -> None:
    names = ("jsd-full-tail", "reverse_kl-full-tail", "hybrid-anchor-support", "jsd-5-tail")
    first, *others = ranks.run(many, [variants.ALL[name] for name in names])
    assert len(first) == RUNS * len(names)
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            assert torch.equal(mine.loss, theirs.loss)
            assert torch.equal(mine.grad_hidden, theirs.grad_hidden)
            assert torch.equal(mine.result.token_log_probs, theirs.result.token_log_probs)
            assert mine.result.token_kl is not None
            assert theirs.result.token_kl is not None
            assert torch.equal(mine.result.token_kl, theirs.result.token_kl)
            for name, value in mine.result.sums.items():
                assert torch.equal(value, theirs.result.sums[name]), name


def test_two_ranks_agree_in_every_run(tp2: Ranks) -> None:
    check_agreement(tp2)


@pytest.mark.slow
def test_four_ranks_agree_in_every_run(tp4: Ranks) -> None:
    """With four, the sum that was rounded on each rank differed in one run of twenty."""
    check_agreement(tp4)
