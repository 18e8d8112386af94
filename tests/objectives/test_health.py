"""Health metrics from sums, and the rule that warns before a collapse."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import pytest
import torch

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.objectives import build_objective
from sdpo_megatron.objectives.health import (
    CollapseRule,
    Sign,
    collapse_signs,
    prompt_sign,
    summarise,
)
from sdpo_megatron.observability.metrics import BY_KEY
from tests.objectives import variants
from tests.objectives.cases import Case, make, run
from tests.objectives.compare import expected

RULE = CollapseRule()


def summary(case: Case) -> dict[str, float]:
    sums = {name: float(value) for name, value in run(case).result.sums.items()}
    return summarise(sums, build_objective(case.config))


def test_means_over_the_right_tokens() -> None:
    case = Case(config=variants.ALL["jsd-5-tail"], tokens=20, seed=3)
    data, want, got = make(case), expected(case), summary(case)
    mask = data.loss_mask
    assert want.terms.kl is not None
    assert want.terms.teacher_entropy is not None
    assert want.terms.overlap is not None
    assert got["teacher/kl_mean"] == pytest.approx(float(want.terms.kl[mask].mean()), rel=1e-4)
    assert got["student/entropy"] == pytest.approx(
        float(want.terms.student_entropy[mask].mean()), rel=1e-5
    )
    assert got["teacher/entropy"] == pytest.approx(
        float(want.terms.teacher_entropy[mask].mean()), rel=1e-5
    )
    assert got["teacher/top_k_overlap"] == pytest.approx(
        float(want.terms.overlap[mask].mean()), rel=1e-5
    )
    largest = want.terms.kl[mask].sort(descending=True).values[: math.ceil(int(mask.sum()) / 10)]
    share = float(largest.sum() / want.terms.kl[mask].sum())
    assert got["teacher/kl_top_tenth_share"] == pytest.approx(share, rel=1e-4)
    last = want.terms.kl[mask & (data.position >= 2 / 3)]
    assert got["teacher/kl_last_third"] == pytest.approx(float(last.mean()), rel=1e-4)
    weight = (want.terms.log_probs - data.rollout_log_probs).exp().clamp(max=2.0)[mask]
    assert got["importance/weight_mean"] == pytest.approx(float(weight.mean()), rel=1e-5)
    effective = float(weight.sum() ** 2 / weight.square().sum() / mask.sum())
    assert got["importance/effective_fraction"] == pytest.approx(effective, rel=1e-5)


def test_teacher_gain_is_split_by_outcome() -> None:
    case = Case(config=variants.ALL["jsd-full-tail"], tokens=20, seed=3)
    data, got = make(case), summary(case)
    assert data.teacher is not None
    hidden, weight, _ = data.teacher[0]
    q = torch.log_softmax(hidden.double() @ weight.double().t(), -1)
    p = torch.log_softmax(data.hidden.double() @ data.weight.double().t(), -1)
    gain = (q - p)[torch.arange(20), data.token_ids]
    for name, which in (("success", data.success), ("failed", ~data.success)):
        mean = float(gain[data.loss_mask & which].mean())
        assert got[f"teacher/gain_{name}"] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("name", variants.ALL)
def test_every_key_is_declared_and_does_not_depend_on_the_data(name: str) -> None:
    full, empty = (
        summary(Case(config=variants.ALL[name])),
        summary(Case(config=variants.ALL[name], tokens=0)),
    )
    assert full.keys() == empty.keys()
    assert full.keys() <= BY_KEY.keys()
    assert math.isnan(empty["student/entropy"])


def test_clip_fractions_of_a_policy_gradient() -> None:
    case = Case(config=variants.ALL["grpo-off-policy"], tokens=40, seed=4)
    data, want = make(case), expected(case)
    assert data.old_log_probs is not None
    ratio = (want.terms.log_probs - data.old_log_probs).exp()
    low, high = (ratio < 0.8) & (data.advantage < 0), (ratio > 1.28) & (data.advantage > 0)
    dual = (ratio > 3.0) & (data.advantage < 0)
    assert bool((dual & data.loss_mask).any())
    clipped = ((low | high | dual) & data.loss_mask).sum() / data.loss_mask.sum()
    assert 0.1 < float(clipped) < 0.9
    assert summary(case)["ratio/clipped_fraction"] == pytest.approx(float(clipped))


def step(
    success: float = 0.2, entropy: float = 1.0, length: float = 50.0, gain: float = 0.3
) -> dict[str, float]:
    return {
        "rollout/success_rate": success,
        "student/entropy": entropy,
        "rollout/response_tokens_mean": length,
        "teacher/gain_success": gain,
    }


def test_a_healthy_run_gives_no_warning() -> None:
    history = [
        step(s, e, n)
        for s, e, n in [(0.2, 1.0, 50), (0.3, 0.8, 45), (0.5, 0.5, 30), (0.9, 0.1, 12)]
    ]
    assert collapse_signs(history, RULE) == []
    assert collapse_signs([], RULE) == []


def test_a_misleading_teacher_is_named_before_anything_else_has_moved() -> None:
    history = [step(gain=-0.5), step(gain=-0.4)]
    (sign,) = collapse_signs(history, RULE)
    assert sign.name == "teacher"
    assert "less likely than the student does (-0.400 nats" in sign.text
    assert "prompt_success" in sign.text


def test_a_falling_success_rate_as_feedback_alone_does_to_a_small_model() -> None:
    history = [step(s) for s in (0.16, 0.16, 0.06, 0.0)]
    (sign,) = collapse_signs(history, RULE)
    assert sign.name == "success"
    assert "success rate fell from 0.160 to 0.000" in sign.text


def test_entropy_and_length() -> None:
    history = [step(), step(), step(entropy=0.1, length=5.0), step(entropy=0.05, length=4.0)]
    entropy, length = collapse_signs(history, RULE)
    assert "entropy fell from 1.000 to 0.050" in entropy.text
    assert "shrank from 50 to 4 tokens" in length.text
    assert (entropy.name, length.name) == ("entropy", "length")
    learned = [step(), step(), step(0.9, length=5.0), step(0.9, length=4.0)]
    assert collapse_signs(learned, RULE) == []


def test_one_bad_step_is_not_enough_and_unknown_values_are_no_sign() -> None:
    assert collapse_signs([step(), step(), step(), step(0.0, 0.0, 1.0, -1.0)], RULE) == []
    unknown = {"teacher/gain_success": math.nan}
    assert collapse_signs([unknown] * 6, RULE) == []


def test_a_rule_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="patience 0"):
        CollapseRule(patience=0)


def asked(teacher: float, student: float) -> dict[str, float]:
    return {"teacher/prompt_success": teacher, "rollout/success_rate": student}


@pytest.mark.parametrize(
    ("history", "warned"),
    [
        ([], False),
        ([asked(1.0, 0.22), asked(0.75, 0.31), asked(0.5, 0.28)], False),  # siblings, on a 135M
        ([asked(0.125, 0.22)], True),  # feedback alone, on the same model
        ([asked(0.125, 0.22), asked(0.125, 0.16), asked(0.0, 0.06)], True),
        ([asked(0.75, 0.84)] * 4, False),  # there is little left to help with
        ([asked(0.0, 0.22)] * 9 + [asked(0.6, 0.2)] * 4, False),  # it is over
        ([asked(1.0, 0.22), step(), asked(math.nan, 0.2), asked(0.0, 0.28)], False),
    ],
)
def test_a_teacher_prompt_that_does_not_help(history: list[dict[str, float]], warned: bool) -> None:
    assert (prompt_sign(history, 8) is not None) == warned


def test_the_warning_says_what_was_counted() -> None:
    sign = prompt_sign([asked(0.0, 0.3), asked(0.25, 0.5)], 8)
    assert sign is not None
    assert sign.name == "prompt"
    assert "0.12 of 16 answers" in sign.text
    assert "the student alone has 0.40" in sign.text


def test_every_sign_has_its_counter() -> None:
    assert {f"collapse/{name}" for name in get_args(get_type_hints(Sign)["name"])} == {
        key for key in BY_KEY if key.startswith("collapse/")
    }
