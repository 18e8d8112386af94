"""The fused loss against the dense float64 reference: values, gradients, every layout, borders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, note, settings
from hypothesis import strategies as st

from sdpo_megatron.errors import ConfigError, NumericsError
from sdpo_megatron.objectives import (
    DistillationConfig,
    HeadOptions,
    ObjectiveConfig,
    TeacherHead,
    TeacherTarget,
    TokenTargets,
    build_objective,
    head_log_probs,
)
from sdpo_megatron.objectives.fused.head_loss import head_loss
from tests.objectives import variants
from tests.objectives.cases import Case, make, run
from tests.objectives.compare import check, expected, on_ranks
from tests.objectives.ranks import Ranks


def objective(**fields: Any) -> ObjectiveConfig:
    return ObjectiveConfig(distillation=DistillationConfig(**fields))


TOP5 = objective(top_k=5)

# What every variant must survive, on every layout.
CONDITIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded-and-cooler": {"temperature": 0.6, "padding": 3, "seed": 1},
    "ties": {"levels": 1, "seed": 2},
    "one-chunk": {"chunk_tokens": 64, "seed": 3},
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("name", variants.ALL)
def test_every_variant_equals_the_reference(name: str, condition: str) -> None:
    case = Case(config=variants.ALL[name], **CONDITIONS[condition])
    check(case, [run(case)])


def check_on_ranks(ranks: Ranks, cases: dict[str, Case]) -> None:
    by_rank = ranks.run(on_ranks, list(cases.values()))
    for (name, case), outcomes in zip(cases.items(), zip(*by_rank, strict=True), strict=True):
        try:
            check(case, list(outcomes), rtol=2e-5)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def test_every_variant_under_tensor_parallel_2(tp2: Ranks) -> None:
    conditions = {name: CONDITIONS[name] for name in ("padded-and-cooler", "ties")}
    check_on_ranks(
        tp2,
        {
            f"{variant} {condition}": Case(config=config, **fields)
            for variant, config in variants.ALL.items()
            for condition, fields in conditions.items()
        },
    )


@pytest.mark.slow
def test_every_variant_under_tensor_parallel_4(tp4: Ranks) -> None:
    """Vocabulary 23 on 4 ranks: K = 20 is larger than every shard of 6 rows; the last has 5."""
    fields = {"levels": 1, "seed": 5, "tokens": 4, "chunk_tokens": 4}
    check_on_ranks(
        tp4, {name: Case(config=config, **fields) for name, config in variants.ALL.items()}
    )


@pytest.mark.slow
def test_a_rank_without_any_real_row(tp4: Ranks) -> None:
    """Vocabulary 5 padded to 12 on 4 ranks: the last two hold padding only."""
    configs = {"topk": TOP5, "full": objective(top_k=None), "grpo": variants.OTHERS["grpo"]}
    cases = {n: Case(config=c, vocab=5, padding=6, tokens=4) for n, c in configs.items()}
    check_on_ranks(tp4, cases)


@st.composite
def drawn_cases(draw: st.DrawFn) -> Case:
    vocab = draw(st.integers(2, 200))
    return Case(
        config=objective(
            divergence=draw(st.sampled_from(["forward_kl", "reverse_kl", "jsd"])),
            alpha=draw(st.sampled_from([0.1, 0.5, 0.9])),
            top_k=draw(st.one_of(st.none(), st.integers(1, vocab))),
            tail=draw(st.booleans()),
        ),
        tokens=draw(st.integers(0, 9)),
        hidden=draw(st.integers(1, 8)),
        vocab=vocab,
        padding=draw(st.integers(0, 5)),
        temperature=draw(st.sampled_from([0.5, 1.0, 1.7])),
        chunk_tokens=draw(st.integers(1, 11)),
        levels=draw(st.sampled_from([0, 0, 1, 2])),
        seed=draw(st.integers(0, 10_000)),
    )


# A divergence of 8 whose gradient is 1e-5: log-probs that lose digits to log Z spoil it.
CANCELLING = Case(
    config=objective(divergence="reverse_kl", top_k=None, tail=False),
    tokens=2,
    hidden=3,
    vocab=3,
    temperature=0.5,
    levels=2,
    seed=3,
)


@settings(max_examples=80, deadline=None)
@example(case=CANCELLING)
@given(case=drawn_cases())
def test_drawn_shapes(case: Case) -> None:
    note(str(case))
    check(case, [run(case)])


@settings(max_examples=12, deadline=None)
@given(cases=st.lists(drawn_cases(), min_size=1, max_size=4))
def test_drawn_shapes_under_tensor_parallel_2(tp2: Ranks, cases: list[Case]) -> None:
    check_on_ranks(tp2, {str(case): case for case in cases})


@pytest.mark.parametrize(
    "name", ["jsd-5-tail", "reverse_kl-full-tail", "forward_kl-5-no-tail", "hybrid"]
)
@pytest.mark.parametrize("scale", [100.0, 3e3])
def test_extreme_logits(name: str, scale: float) -> None:
    """Logits to +-1e4: most probabilities underflow, values and gradients stay finite and right."""
    case = Case(config=variants.ALL[name], scale=scale, seed=7)
    logits = make(case).hidden @ make(case).weight.t()
    assert scale < 3e3 or float(logits.abs().max()) > 1e4
    outcome = run(case)
    assert torch.isfinite(outcome.grad_hidden).all()
    assert torch.isfinite(outcome.grad_weight).all()
    # float32 logits of 1e4 carry an error of 1e-3, and so do log-probabilities.
    check(case, [outcome], rtol=2e-4)


@pytest.mark.parametrize(
    "name", ["jsd-5-tail", "forward_kl-full-tail", "sequence", "hybrid-anchor-support"]
)
def test_bf16_inputs_are_accumulated_in_float32(name: str) -> None:
    """The reference gets the same bf16 numbers: what remains is the rounding of gradients, 2^-8."""
    case = Case(config=variants.ALL[name], dtype=torch.bfloat16, hidden=64, vocab=300, seed=8)
    outcome, want = run(case), expected(case)
    torch.testing.assert_close(
        outcome.loss.double(), want.terms.loss.detach(), rtol=2e-5, atol=2e-5
    )
    torch.testing.assert_close(
        outcome.result.token_log_probs.double(), want.terms.log_probs, rtol=1e-5, atol=1e-4
    )
    for got, exact in (
        (outcome.grad_hidden, want.grad_hidden),
        (outcome.grad_weight, want.grad_weight),
    ):
        assert got.dtype == torch.bfloat16
        error = float((got.double() - exact).norm() / exact.norm())
        assert error < 2**-8


@pytest.mark.parametrize(
    "name", ["grpo", "jsd-5-tail", "jsd-full-tail", "sequence", "hybrid-anchor-support"]
)
def test_nothing_to_train_on_is_a_loss_of_zero_with_zero_gradients(name: str) -> None:
    masked = run(Case(config=variants.ALL[name], empty_mask=True))
    assert masked.loss == 0
    assert not masked.grad_hidden.any()
    assert not masked.grad_weight.any()
    absent = run(Case(config=variants.ALL[name], tokens=0))
    assert absent.loss == 0
    assert absent.grad_hidden.shape == (0, 6)
    assert not absent.grad_weight.any()
    assert absent.result.sums.keys() == masked.result.sums.keys()
    assert all(float(value) == 0.0 for value in absent.result.sums.values())


def test_sums_have_the_same_names_for_every_input_and_are_scalars() -> None:
    for config in variants.ALL.values():
        full, empty = run(Case(config=config)), run(Case(config=config, tokens=0))
        assert full.result.sums.keys() == empty.result.sums.keys()
        assert all(
            value.shape == () and not value.requires_grad for value in full.result.sums.values()
        )


@pytest.mark.parametrize("name", ["jsd-5-tail", "reverse_kl-full-tail", "hybrid-anchor-support"])
def test_gradcheck(name: str) -> None:
    """Finite differences in float64 through the autograd function, weight and hidden."""
    case = Case(
        config=variants.ALL[name], dtype=torch.float64, tokens=3, vocab=11, hidden=4, chunk_tokens=2
    )
    data = make(case)
    targets = _targets(data)

    def target(parts: Any) -> TeacherTarget | None:
        return (
            None
            if parts is None
            else TeacherTarget([TeacherHead(h.double(), w.double(), c) for h, w, c in parts])
        )

    def loss(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return head_loss(
            hidden,
            weight,
            targets,
            build_objective(
                replace(case.config, importance=variants.OTHERS["no-importance"].importance)
            ),
            target(data.teacher),
            reference=target(data.reference),
            options=HeadOptions(chunk_tokens=2),
        ).loss

    hidden, weight = data.hidden.double().requires_grad_(), data.weight.double().requires_grad_()
    assert torch.autograd.gradcheck(loss, (hidden, weight), eps=1e-6, atol=1e-7, rtol=1e-5)


def _targets(data: Any, **changes: Any) -> TokenTargets:
    # Rollout log-probs of the policy itself, detached weights of 1: nothing that gradcheck would
    # see move.
    fields = {
        "token_ids": data.token_ids,
        "distill_weight": data.distill_weight.double(),
        "policy_weight": data.policy_weight.double(),
        "advantage": data.advantage.double(),
        "rollout_log_probs": data.rollout_log_probs.double(),
        "old_log_probs": data.rollout_log_probs.double(),
        "sequence_ids": data.sequence_ids,
        "loss_mask": data.loss_mask,
    }
    return TokenTargets(**{**fields, **changes})


def test_chunk_size_does_not_matter() -> None:
    outcomes = [run(Case(config=TOP5, tokens=9, chunk_tokens=size)) for size in (1, 2, 4, 9, 100)]
    for outcome in outcomes[1:]:
        torch.testing.assert_close(outcome.loss, outcomes[0].loss, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(
            outcome.grad_weight, outcomes[0].grad_weight, rtol=1e-5, atol=1e-7
        )
        for name, value in outcome.result.sums.items():
            torch.testing.assert_close(value, outcomes[0].result.sums[name], rtol=1e-5, atol=1e-6)


def partial_grads(group: Any, rank: int, world: int, case: Case) -> torch.Tensor:
    return run(case, group, rank, world, reduce_grad_hidden=False).grad_hidden


def test_grad_hidden_can_stay_partial_for_sequence_parallel(tp2: Ranks) -> None:
    case = Case(config=TOP5)
    parts = tp2.run(partial_grads, case)
    assert not torch.equal(parts[0], parts[1])
    torch.testing.assert_close(parts[0] + parts[1], run(case).grad_hidden, rtol=1e-5, atol=1e-6)


# Megatron's fused accumulation.


def fused(
    weight: torch.Tensor, data: Any, main_grad: torch.Tensor, scale: float = 1.0
) -> torch.Tensor:
    assert data.teacher is not None
    teacher = TeacherTarget([TeacherHead(*data.teacher[0])])
    floats = ("distill_weight", "policy_weight", "advantage", "rollout_log_probs")
    targets = _targets(data, old_log_probs=None, **{name: getattr(data, name) for name in floats})
    hidden = data.hidden.clone().requires_grad_()
    return head_loss(
        hidden,
        weight,
        targets,
        build_objective(TOP5),
        teacher,
        main_grad=main_grad,
        grad_scale=scale,
    ).loss


def test_main_grad_is_accumulated_in_place_and_autograd_gets_nothing() -> None:
    case = Case(config=TOP5)
    data = make(case)
    weight = torch.nn.Parameter(data.weight.clone())
    main_grad = torch.ones_like(weight)
    fused(weight, data, main_grad).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(main_grad, 1.0 + run(case).grad_weight)
    assert weight.grad is None  # no [V, H] placeholder


def test_a_tied_embedding_keeps_its_own_gradient_beside_main_grad() -> None:
    """The embedding's rows reach autograd as ever; only the head's share is in main_grad."""
    case = Case(config=TOP5)
    data = make(case)
    weight = torch.nn.Parameter(data.weight.clone())
    main_grad = torch.zeros_like(weight)
    embedded = weight[data.token_ids].sum()
    (fused(weight, data, main_grad) + embedded).backward()  # type: ignore[no-untyped-call]
    counts = torch.bincount(data.token_ids, minlength=case.vocab).float()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, counts[:, None].expand_as(weight).contiguous())
    torch.testing.assert_close(main_grad, run(case).grad_weight)


def test_main_grad_with_a_scale_that_was_not_announced_is_an_error() -> None:
    data = make(Case(config=TOP5))
    weight = torch.nn.Parameter(data.weight.clone())
    main_grad = torch.zeros_like(weight)
    loss = fused(weight, data, main_grad, scale=1.0) * 3.0
    with pytest.raises(RuntimeError, match="grad_scale"):
        loss.backward()  # type: ignore[no-untyped-call]
    main_grad.zero_()
    (fused(weight, data, main_grad, scale=3.0) * 3.0).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(main_grad, 3.0 * run(Case(config=TOP5)).grad_weight)


def test_the_gradient_of_the_loss_scales_both_gradients() -> None:
    case = Case(config=TOP5)
    data, plain = make(case), run(case)
    assert data.teacher is not None
    hidden, weight = data.hidden.clone().requires_grad_(), data.weight.clone().requires_grad_()
    floats = ("distill_weight", "policy_weight", "advantage", "rollout_log_probs")
    targets = _targets(data, old_log_probs=None, **{name: getattr(data, name) for name in floats})
    result = head_loss(
        hidden,
        weight,
        targets,
        build_objective(TOP5),
        TeacherTarget([TeacherHead(*data.teacher[0])]),
    )
    (result.loss * -2.5).backward()
    torch.testing.assert_close(hidden.grad, -2.5 * plain.grad_hidden)
    torch.testing.assert_close(weight.grad, -2.5 * plain.grad_weight)


def test_a_frozen_head_gets_no_gradient_and_no_grad_gives_the_same_loss() -> None:
    case = Case(config=TOP5)
    data, plain = make(case), run(case)
    assert data.teacher is not None
    floats = ("distill_weight", "policy_weight", "advantage", "rollout_log_probs")
    targets = _targets(data, old_log_probs=None, **{name: getattr(data, name) for name in floats})
    teacher = TeacherTarget([TeacherHead(*data.teacher[0])])
    hidden = data.hidden.clone().requires_grad_()
    head_loss(hidden, data.weight, targets, build_objective(TOP5), teacher).loss.backward()
    torch.testing.assert_close(hidden.grad, plain.grad_hidden)
    with torch.no_grad():
        silent = head_loss(hidden, data.weight, targets, build_objective(TOP5), teacher)
    assert not silent.loss.requires_grad
    torch.testing.assert_close(silent.loss, plain.loss)


def test_the_teacher_gets_no_gradient() -> None:
    data = make(Case(config=TOP5))
    assert data.teacher is not None
    head = TeacherHead(data.teacher[0][0].requires_grad_(), data.teacher[0][1].requires_grad_())
    hidden = data.hidden.clone().requires_grad_()
    floats = ("distill_weight", "policy_weight", "advantage", "rollout_log_probs")
    targets = _targets(data, old_log_probs=None, **{name: getattr(data, name) for name in floats})
    head_loss(
        hidden, data.weight, targets, build_objective(TOP5), TeacherTarget([head])
    ).loss.backward()
    assert head.hidden.grad is None
    assert head.weight.grad is None


def log_probs_on_ranks(group: Any, rank: int, world: int, case: Case) -> torch.Tensor:
    from tests.objectives.cases import shard

    data = make(case)
    weight = shard(data.weight, world, rank, case.padding)
    return head_log_probs(
        data.hidden,
        weight,
        data.token_ids,
        HeadOptions(temperature=0.7, chunk_tokens=2, tp_group=group, vocab_size=case.vocab),
    )


def test_head_log_probs_equal_log_softmax_on_every_layout(tp2: Ranks) -> None:
    case = Case(config=TOP5, padding=2)
    data = make(case)
    want = torch.log_softmax(data.hidden.double() @ data.weight.double().t() / 0.7, -1)
    want = want[torch.arange(case.tokens), data.token_ids].float()
    for got in [log_probs_on_ranks(None, 0, 1, case), *tp2.run(log_probs_on_ranks, case)]:
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


# What must be refused, and how.


def call(**changes: Any) -> Any:
    data = make(Case(config=TOP5))
    assert data.teacher is not None
    arguments: dict[str, Any] = {
        "hidden": data.hidden.clone().requires_grad_(),
        "weight": data.weight,
        "targets": _targets(data),
        "objective": build_objective(TOP5),
        "teacher": TeacherTarget([TeacherHead(*data.teacher[0])]),
    }
    return head_loss(**{**arguments, **changes})


def test_a_support_larger_than_the_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="top_k 24 is larger than the vocabulary of 23"):
        call(objective=build_objective(objective(top_k=24)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "needs a teacher"),
        ({"objective": build_objective(variants.OTHERS["grpo"])}, "needs no teacher"),
        ({"hidden": torch.zeros(6, 6)}, "do not fit 7 tokens"),
        ({"options": HeadOptions(vocab_size=24)}, "vocab_size 24 does not fit"),
        ({"options": HeadOptions(vocab_size=9)}, r"token ids must be in \[0, 9\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**changes)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize(
    "config", [TOP5, objective(top_k=None), objective(level="sequence", divergence="reverse_kl")]
)
def test_numbers_that_are_not_finite_name_the_token_and_its_sequence(
    who: str, value: float, config: ObjectiveConfig
) -> None:
    data = make(Case(config=TOP5))
    assert data.teacher is not None
    hidden, teacher_hidden = data.hidden.clone(), data.teacher[0][0].clone()
    (hidden if who == "student" else teacher_hidden)[4, 2] = value
    sequence, token = int(data.sequence_ids[4]), int(data.token_ids[4])
    message = (
        f"{who}'s logits that predict token 4 of 7 "
        rf"\(sequence {sequence} of the micro-batch, token id {token}\)"
    )
    with pytest.raises(NumericsError, match=message):
        call(
            hidden=hidden.requires_grad_(),
            teacher=TeacherTarget([TeacherHead(teacher_hidden, data.teacher[0][1])]),
            objective=build_objective(config),
        )
