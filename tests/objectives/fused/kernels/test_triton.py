"""The kernels in Triton's interpreter against the torch passes, and the fused loss on them against
the dense float64 reference: the cases of test_head_loss.

Needs Triton, which the environment of `make setup` lacks (a stand-in takes its name in the engine's
process): `make test-triton` fetches it into a folder of its own.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings

os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported
pytest.importorskip("triton", reason="Triton is not installed here: make test-triton")

from sdpo_megatron.errors import NumericsError
from sdpo_megatron.objectives.fused import chunk, score
from sdpo_megatron.objectives.fused.dispatch import passes_for
from sdpo_megatron.objectives.fused.kernels import TritonPasses
from sdpo_megatron.objectives.fused.passes import FAR_BELOW, Passes, TorchPasses
from sdpo_megatron.objectives.fused.shards import VocabShard
from tests.objectives import variants
from tests.objectives.cases import Case, Outcome, make, run
from tests.objectives.compare import check
from tests.objectives.fused.test_head_loss import CANCELLING, CONDITIONS, TOP5, call, drawn_cases
from tests.objectives.ranks import Ranks


def on_cuda(weight: torch.Tensor, *, complete: bool) -> Passes:
    """What `passes_for` would choose for this weight on a CUDA device."""
    if complete or weight.dtype == torch.float64:
        return passes_for(weight, complete=complete)
    return TritonPasses(weight.dtype)


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (chunk, score):
        monkeypatch.setattr(module, "passes_for", on_cuda)


def logits_of(rows: int, width: int, *, ties: bool = False) -> torch.Tensor:
    g = torch.Generator().manual_seed(width)
    found = torch.randn(rows, width, generator=g) * 4
    return found.round() if ties else found


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("rows", "width", "k"),
    [
        (3, 1, 1),
        (2, 31, 5),
        (2, 33, 33),
        (3, 2048, 20),
        (3, 2049, 100),
        (2, 40_001, 100),  # more than one tile of blocks in `join`, several programs in `scan`
        (1, 70_000, 200),  # several tiles of touched blocks
    ],
)
def test_each_pass_equals_the_torch_pass(rows: int, width: int, k: int, ties: bool) -> None:
    """Ids to the bit, ties included; sums to float32's rounding; then the gradient of both."""
    shard = VocabShard(start=0, rows=width, size=width, group=None)
    logits = logits_of(rows, width, ties=ties)
    token = torch.randint(0, width, (rows, 1), generator=torch.Generator().manual_seed(1))
    results = []
    for passes in (TorchPasses(), TritonPasses(torch.float32)):
        buffer = logits.clone()
        scan = passes.scan(buffer, topk=True)
        values, ids = passes.topk(buffer, scan, k)
        order = ids.argsort(-1)
        buffer.scatter_add_(1, ids, torch.full_like(values, FAR_BELOW))
        rest, weighted = passes.sums(buffer, scan, ids, keep="powers")
        factor = torch.linspace(-1, 1, rows)
        at = torch.cat([values.gather(-1, order), torch.ones(rows, 1)], dim=1)
        query = torch.cat([ids.gather(-1, order), token], dim=1)
        grad = passes.logit_grad(shard, buffer, scan, factor, query, at, None)
        results.append((ids.sort(-1).values, scan.maximum, rest, weighted, grad))
    (ids, maximum, rest, weighted, grad), triton = results
    assert torch.equal(triton[0], ids)
    assert torch.equal(triton[1], maximum)
    torch.testing.assert_close(triton[2], rest, rtol=2e-6, atol=1e-30)
    torch.testing.assert_close(triton[3], weighted, rtol=2e-6, atol=1e-30)
    torch.testing.assert_close(triton[4], grad, rtol=2e-6, atol=1e-6)


def test_the_gradient_in_bf16_is_rounded_once_and_lies_in_the_targets_memory() -> None:
    """Triton's interpreter (3.8.0) cuts to bf16 where a GPU rounds: one step of bf16 is allowed."""
    shard = VocabShard(start=0, rows=300, size=300, group=None)
    found = {}
    scratch = torch.empty(2, 300)
    for products in (torch.float32, torch.bfloat16):
        passes, logits = TritonPasses(products), logits_of(2, 300)
        scan = passes.scan(logits, topk=True)
        values, ids = passes.topk(logits, scan, 5)
        logits.scatter_add_(1, ids, torch.full_like(values, FAR_BELOW))
        query = torch.cat([ids, ids[:, :1]], dim=1)  # the sampled token is in the support
        at = torch.full((2, 6), 1.0 + 2**-7)
        found[products] = passes.logit_grad(
            shard, logits, scan, torch.ones(2), query, at, scratch
        ).clone()
    torch.testing.assert_close(
        found[torch.bfloat16].float(), found[torch.float32], rtol=2**-7, atol=0.0
    )
    # The support's entries are rounded by torch: exactly.
    assert (found[torch.bfloat16] == 2 * (1.0 + 2**-7)).sum() == 2
    assert (found[torch.bfloat16] == 1.0 + 2**-7).sum() == 8
    assert torch.equal(scratch.view(torch.bfloat16).view(-1)[:600].view(2, 300), found[products])


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("name", variants.ALL)
def test_every_variant_equals_the_reference(name: str, condition: str) -> None:
    case = Case(config=variants.ALL[name], **CONDITIONS[condition])
    check(case, [run(case)])


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it is the same for all
)
@given(case=drawn_cases())
def test_drawn_shapes(kernels: None, case: Case) -> None:
    note(str(case))
    check(case, [run(case)])


def test_numbers_that_nearly_cancel() -> None:
    check(CANCELLING, [run(CANCELLING)])


@pytest.mark.parametrize("scale", [100.0, 3e3])
def test_extreme_logits(scale: float) -> None:
    case = Case(config=variants.ALL["jsd-5-tail"], scale=scale, seed=7)
    check(case, [run(case)], rtol=2e-4)


def test_bf16_gives_what_the_torch_passes_give(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(config=TOP5, dtype=torch.bfloat16, hidden=64, vocab=300, seed=8)
    got = run(case)
    monkeypatch.setattr(chunk, "passes_for", passes_for)
    want = run(case)
    torch.testing.assert_close(got.loss, want.loss, rtol=1e-6, atol=1e-7)
    # The logits' gradient is cut to bf16 by the interpreter; the torch passes keep float32 where
    # the CPU multiplies.
    for a, b in ((got.grad_hidden, want.grad_hidden), (got.grad_weight, want.grad_weight)):
        assert float((a - b).float().norm() / b.float().norm()) < 2**-7


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, which is the interpreter
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_seen(value: float) -> None:
    hidden = make(Case(config=TOP5)).hidden.clone()
    hidden[4, 2] = value
    with pytest.raises(NumericsError, match="student's logits that predict token 4 of 7"):
        call(hidden=hidden.requires_grad_())


def on_ranks(group: Any, rank: int, world: int, cases: list[Case]) -> list[Outcome]:
    chunk.passes_for = score.passes_for = on_cuda  # type: ignore[assignment]
    try:
        return [run(case, group, rank, world) for case in cases]
    finally:
        chunk.passes_for = score.passes_for = passes_for  # type: ignore[assignment]


def test_every_variant_under_tensor_parallel_2(tp2: Ranks) -> None:
    fields = CONDITIONS["padded-and-cooler"]
    cases = {name: Case(config=config, **fields) for name, config in variants.ALL.items()}
    by_rank = tp2.run(on_ranks, list(cases.values()))
    for case, outcomes in zip(cases.values(), zip(*by_rank, strict=True), strict=True):
        check(case, list(outcomes), rtol=2e-5)
