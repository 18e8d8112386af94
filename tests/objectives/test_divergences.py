"""Divergences and bins by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.objectives.bins import MIN_LOG_TAIL, renormalised, with_tail
from sdpo_megatron.objectives.divergences import divergence

S = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
T = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64)
LN2 = math.log(2.0)


@pytest.mark.parametrize(
    ("name", "alpha", "entries"),
    [
        ("forward_kl", 0.5, [-0.25 * LN2, 0.0, 0.5 * LN2]),
        ("reverse_kl", 0.5, [0.5 * LN2, 0.0, -0.25 * LN2]),
        ("jsd", 0.0, [-0.25 * LN2, 0.0, 0.5 * LN2]),
        ("jsd", 1.0, [0.5 * LN2, 0.0, -0.25 * LN2]),
        # M = (0.375, 0.25, 0.375); outer entries: 0.25 ln(4/3) + 0.125 ln(2/3), twice by symmetry
        ("jsd", 0.5, [0.25 * math.log(4 / 3) + 0.125 * math.log(2 / 3), 0.0] * 1 + [None]),
    ],
)
def test_entries_by_hand(name: str, alpha: float, entries: list[float | None]) -> None:
    got = divergence(name, alpha)(S.log(), T.log())[0].tolist()
    if entries[-1] is None:
        entries[-1] = entries[0]
    assert got == pytest.approx(entries, abs=1e-15)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    alpha=st.floats(0.01, 0.99),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_never_negative_and_zero_only_for_equal_distributions(
    seed: int, alpha: float, scale: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(2, 6, 9, generator=g, dtype=torch.float64) * scale).log_softmax(-1)
    for name in ("forward_kl", "reverse_kl", "jsd"):
        entries = divergence(name, alpha)
        # At scale 30 two rows can put all their mass on one id: equal up to rounding.
        assert (entries(s, t).sum(-1) > (-1e-15 if scale > 1.0 else 0.0)).all()
        torch.testing.assert_close(entries(s, s).sum(-1), torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="outside"):
        divergence("jsd", alpha)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'kl'.*forward_kl, reverse_kl, jsd"):
        divergence("kl", 0.5)


def test_the_tail_is_what_the_support_leaves() -> None:
    log_probs = torch.tensor([[0.5, 0.25]], dtype=torch.float64).log()
    rest = torch.tensor([0.25], dtype=torch.float64).log()
    torch.testing.assert_close(
        with_tail(log_probs, rest).exp(), torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    )
    third = torch.tensor([[2 / 3, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(renormalised(log_probs).exp(), third)


def test_a_support_that_holds_everything_leaves_1e_7_and_no_gradient_through_the_tail() -> None:
    log_probs = torch.tensor([[0.6, 0.4]], dtype=torch.float64).log()
    for value, slope in ((-torch.inf, 0.0), (math.log(0.9e-7), 0.0), (math.log(1.1e-7), 1.0)):
        rest = torch.tensor([value], dtype=torch.float64, requires_grad=True)
        tail = with_tail(log_probs, rest)[0, -1]
        assert float(tail.detach().exp()) == pytest.approx(max(math.exp(value), 1e-7), rel=1e-6)
        (grad,) = torch.autograd.grad(tail, rest)
        assert grad.tolist() == [slope]
    assert pytest.approx(math.log(-math.expm1(-1e-7))) == MIN_LOG_TAIL
