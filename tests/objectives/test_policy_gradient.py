"""What the GRPO and anchor terms report, counted by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdpo_megatron.objectives.config import ImportanceConfig, PolicyGradientConfig
from sdpo_megatron.objectives.policy_gradient import PolicyGradientTerm

# ratio, advantage, weight, mask; clipped from 1 - 0.2 down and from 1 + 0.5 up
TOKENS = [
    (0.7, -1.0, 0.5, True),  # clipped below
    (0.7, 1.0, 0.5, True),  # below, but the advantage is positive
    (0.9, -1.0, 0.5, True),  # within
    (1.3, -1.0, 0.5, True),  # above, but the advantage is negative
    (1.3, 1.0, 0.5, True),  # within: the two bounds differ
    (1.6, 1.0, 1.0, True),  # clipped above
    (1.6, 1.0, 0.0, True),  # no weight
    (0.5, -1.0, 0.0, False),  # not trained
    (0.7, 0.0, 0.5, True),  # nothing to follow
]


def sums() -> tuple[torch.Tensor, Any]:
    ratios, advantages, weights, masks = zip(*TOKENS, strict=True)
    old = torch.zeros(len(TOKENS), dtype=torch.float64)
    targets = SimpleNamespace(
        old_log_probs=old,
        rollout_log_probs=old,
        advantage=torch.tensor(advantages, dtype=torch.float64),
        policy_weight=torch.tensor(weights, dtype=torch.float64),
        loss_mask=torch.tensor(masks),
    )
    now = torch.tensor(ratios, dtype=torch.float64).log()
    view: Any = SimpleNamespace(targets=targets, student=SimpleNamespace(sampled=now))
    config = PolicyGradientConfig(clip_low=0.2, clip_high=0.5)
    result = PolicyGradientTerm(config, ImportanceConfig())(view)
    return result.loss, result.sums


def test_clipped_tokens_are_counted_where_the_clipping_bites() -> None:
    _, found = sums()
    assert found["policy_tokens"] == 7
    assert found["policy_clipped_low"] == 1
    assert found["policy_clipped_high"] == 1


def test_the_loss_of_each_token_is_the_lesser_surrogate() -> None:
    loss, found = sums()
    expected = [0.4, -0.35, 0.45, 0.65, -0.65, -1.5, 0.0, 0.0, 0.0]
    assert loss.tolist() == pytest.approx(expected)
    assert float(found["policy_loss"]) == pytest.approx(sum(expected))
