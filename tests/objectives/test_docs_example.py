"""The two-token example of docs/objective.md, number by number."""

from __future__ import annotations

import math

import pytest
import torch

from sdpo_megatron.objectives import (
    DistillationConfig,
    ImportanceConfig,
    ObjectiveConfig,
    TokenTargets,
    build_objective,
    single,
)
from sdpo_megatron.objectives.fused.head_loss import head_loss

LN2 = math.log(2.0)


def test_two_tokens_by_hand() -> None:
    p = torch.tensor([[1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 8, 1 / 8, 1 / 4, 1 / 2]])
    q = torch.tensor([[1 / 4, 1 / 4, 1 / 4, 1 / 4], [1 / 8, 1 / 8, 1 / 4, 1 / 2]])
    # An identity for the head: the hidden states are the logits.
    hidden, weight = p.log().requires_grad_(), torch.eye(4)
    zeros = torch.zeros(2)
    targets = TokenTargets(
        token_ids=torch.tensor([0, 3]),
        distill_weight=torch.tensor([0.5, 0.5]),
        policy_weight=zeros,
        advantage=zeros,
        rollout_log_probs=zeros,
        sequence_ids=torch.tensor([0, 0]),
        loss_mask=torch.tensor([True, True]),
    )
    config = ObjectiveConfig(
        distillation=DistillationConfig(divergence="reverse_kl", top_k=2),
        importance=ImportanceConfig(mismatch_cap=None),
    )
    result = head_loss(hidden, weight, targets, build_objective(config), single(q.log(), weight))
    assert float(result.loss.detach()) == pytest.approx(LN2 / 8, abs=1e-6)
    assert result.token_kl is not None
    assert result.token_kl.tolist() == pytest.approx([LN2 / 4, 0.0], abs=1e-6)
    result.loss.backward()  # type: ignore[no-untyped-call]
    expected = torch.tensor([[3 / 16, -1 / 32, -5 / 64, -5 / 64], [0.0, 0.0, 0.0, 0.0]]) * LN2
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, expected, rtol=1e-5, atol=1e-6)
    assert [round(x, 4) for x in expected[0].tolist()] == [0.13, -0.0217, -0.0542, -0.0542]
