"""The clipped policy gradient in float64: every regime of the ratio by hand, gradients by finite
differences, and a bound where there was none.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdpo_megatron.objectives import TokenTargets
from sdpo_megatron.objectives.config import ImportanceConfig, PolicyGradientConfig
from sdpo_megatron.objectives.policy_gradient import PolicyGradientTerm
from sdpo_megatron.objectives.view import Distribution, TermResult, TokenView

OFF = ImportanceConfig(is_clip=None, mismatch_cap=None)
SINGLE = PolicyGradientConfig(dual_clip=None)
DUAL = PolicyGradientConfig(dual_clip=3.0)


def term(config: PolicyGradientConfig, now: torch.Tensor, advantage: torch.Tensor) -> TermResult:
    """The term at log pi_old = -2, with weights of 1."""
    ones, old = torch.ones_like(advantage), torch.full_like(advantage, -2.0)
    targets = TokenTargets(
        token_ids=torch.zeros(len(advantage), dtype=torch.int64),
        distill_weight=torch.zeros_like(advantage),
        policy_weight=ones,
        advantage=advantage,
        rollout_log_probs=old,
        sequence_ids=torch.zeros(len(advantage), dtype=torch.int64),
        loss_mask=ones.bool(),
        old_log_probs=old,
    )
    student = Distribution(now.new_zeros(len(now), 0), now, now.new_zeros(len(now)))
    view = TokenView(student, None, None, targets, False, lambda entries: entries.sum(-1))
    return PolicyGradientTerm(config, OFF)(view)


def at(config: PolicyGradientConfig, ratio: float, advantage: float) -> tuple[float, float]:
    """(loss, derivative by log pi) of one token."""
    now = torch.tensor([math.log(ratio) - 2.0], dtype=torch.float64, requires_grad=True)
    result = term(config, now, torch.tensor([advantage], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(result.loss.sum(), now)
    return float(result.loss.detach().sum()), float(gradient)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (0.5, -2.0, 1.6, 0.0),  # clipped low: 0.8 x 2
        (1.0, -2.0, 2.0, 2.0),
        (2.5, -2.0, 5.0, 5.0),
        (4.0, -2.0, 6.0, 0.0),  # the dual clip: 3 x 2
        (81.0, -2.0, 6.0, 0.0),
        (0.5, 2.0, -1.0, -1.0),
        (1.1, 2.0, -2.2, -2.2),
        (4.0, 2.0, -2.56, 0.0),  # clipped high: 1.28 x 2
        (4.0, 0.0, 0.0, 0.0),
    ],
)
def test_each_regime_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    assert at(DUAL, ratio, advantage) == pytest.approx((loss, gradient), abs=1e-12)


def test_without_it_the_gradient_has_no_bound() -> None:
    """What the bound is for: 27 times the largest gradient that it lets through."""
    assert at(SINGLE, 81.0, -2.0) == pytest.approx((162.0, 162.0))
    assert at(DUAL, 2.999, -2.0)[1] == pytest.approx(6.0, rel=1e-3)


@given(
    ratio=st.floats(0.01, 100.0),
    advantage=st.floats(-2.0, 2.0),
    bound=st.one_of(st.none(), st.floats(1.1, 10.0)),
)
def test_any_ratio_equals_the_reference(
    ratio: float, advantage: float, bound: float | None
) -> None:
    """The published form, as a minimum and a maximum of losses; derivatives by finite differences
    away from its kinks.
    """

    def reference(r: float) -> float:
        clipped = max(-advantage * r, -advantage * min(max(r, 0.8), 1.28))
        return clipped if bound is None or advantage >= 0 else min(clipped, -advantage * bound)

    config = replace(DUAL, dual_clip=bound)
    loss, gradient = at(config, ratio, advantage)
    assert loss == pytest.approx(reference(ratio), rel=1e-9, abs=1e-12)
    kinks = [0.8, 1.28] + ([] if bound is None else [bound])
    if all(abs(ratio / kink - 1) > 1e-3 for kink in kinks):
        step = 1e-6  # of log pi
        difference = reference(ratio * math.exp(step)) - reference(ratio * math.exp(-step))
        assert gradient == pytest.approx(difference / (2 * step), rel=1e-5, abs=1e-7)


def test_gradcheck() -> None:
    now = (torch.tensor([0.5, 1.0, 2.9, 3.1, 9.0, 0.9], dtype=torch.float64).log() - 2.0).repeat(2)
    advantage = torch.tensor([-1.5] * 6 + [0.7] * 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: term(DUAL, x, advantage).loss, (now.requires_grad_(),), eps=1e-6
    )


def test_bounded_tokens_are_counted() -> None:
    now = torch.tensor([4.0, 4.0, 2.0], dtype=torch.float64).log() - 2.0
    sums = term(DUAL, now, torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)).sums
    assert (sums["policy_clipped_dual"], sums["policy_clipped_high"]) == (1, 1)


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
