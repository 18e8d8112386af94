"""The fused loss of a case, on any number of ranks, against the dense float64 reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tests.objectives.cases import Case, Data, Outcome, make, run
from tests.objectives.reference import Terms, dense


@dataclass
class Expected:
    terms: Terms
    grad_hidden: torch.Tensor
    grad_weight: torch.Tensor
    data: Data


def expected(case: Case) -> Expected:
    data = make(case)
    hidden = data.hidden.double().requires_grad_()
    weight = data.weight.double().requires_grad_()
    terms = dense(hidden, weight, case, data)
    terms.loss.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return Expected(terms, hidden.grad, weight.grad, data)


def on_ranks(group: Any, rank: int, world: int, cases: list[Case]) -> list[Outcome]:
    """Run by `Ranks.run`."""
    return [run(case, group, rank, world) for case in cases]


def check(case: Case, outcomes: list[Outcome], rtol: float = 1e-5) -> None:
    """Loss, gradients, log-probs, divergence and sums; all ranks agree and padded rows get nothing.

    Gradients are compared relative to their largest entry: entries that cancel carry the rounding
    of the products they are sums of. Probabilities in float32 are good to some 1e-6, and so are
    gradients that nearly cancel: the floor.
    """
    want = expected(case)
    floor = 0.5 * rtol
    for outcome in outcomes:
        size = float(want.data.distill_weight.sum() + want.data.policy_weight.sum())
        close(outcome.loss, want.terms.loss.detach(), rtol, atol=rtol * size)
        close_to_largest(outcome.grad_hidden, want.grad_hidden, rtol, floor)
        close(outcome.result.token_log_probs, want.terms.log_probs, rtol, atol=10 * rtol)
        if want.terms.kl is not None:
            assert outcome.result.token_kl is not None
            close(outcome.result.token_kl, want.terms.kl, rtol, atol=10 * rtol)
        check_sums(outcome, want, rtol)
    whole = torch.cat([outcome.grad_weight for outcome in outcomes])
    close_to_largest(whole[: case.vocab], want.grad_weight, rtol, floor)
    assert not whole[case.vocab :].any(), "a padded row of the head has a gradient"


def check_sums(outcome: Outcome, want: Expected, rtol: float) -> None:
    sums, data, terms = outcome.result.sums, want.data, want.terms
    mask = data.loss_mask.double()
    distilled = mask * (data.distill_weight != 0)

    def same(name: str, value: torch.Tensor) -> None:
        close(sums[name], value, rtol, atol=20 * rtol * max(1.0, float(mask.sum())))

    same("tokens", mask.sum())
    same("student_entropy", (mask * terms.student_entropy).sum())
    same("log_prob", (mask * terms.log_probs).sum())
    if terms.kl is not None and terms.teacher_entropy is not None:
        same("kl", (distilled * terms.kl).sum())
        same("teacher_entropy", (distilled * terms.teacher_entropy).sum())
        same("distill_tokens", distilled.sum())
        same("tokens_success", (distilled * data.success).sum())
    if terms.overlap is not None:
        same("topk_overlap", (distilled * terms.overlap).sum())


def close(got: torch.Tensor, want: torch.Tensor, rtol: float, atol: float) -> None:
    torch.testing.assert_close(got.double(), want.double(), rtol=rtol, atol=atol)


def close_to_largest(got: torch.Tensor, want: torch.Tensor, rtol: float, floor: float) -> None:
    largest = float(want.abs().max()) if want.numel() else 0.0
    torch.testing.assert_close(got.double(), want.double(), rtol=0.0, atol=rtol * largest + floor)
