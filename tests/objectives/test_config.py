"""Settings that contradict each other, and what an objective says it needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.objectives import (
    AnchorConfig,
    DistillationConfig,
    GrpoWeighting,
    ImportanceConfig,
    ObjectiveConfig,
    PolicyGradientConfig,
    TeacherHead,
    TeacherTarget,
    TokenTargets,
    build_objective,
    null_corrected,
    single,
    trust_region,
)

GRPO = GrpoWeighting()


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (DistillationConfig, {"level": "word"}, "logit, token, sequence"),
        (DistillationConfig, {"level": "token"}, "set divergence=reverse_kl"),
        (DistillationConfig, {"divergence": "tv"}, "forward_kl, reverse_kl, jsd"),
        (DistillationConfig, {"alpha": 1.01}, "alpha=1.01: must be at most 1"),
        (DistillationConfig, {"top_k": 0}, "top_k=0: must be at least 1"),
        (DistillationConfig, {"advantage_clip": 5.0}, "only reverse KL has"),
        (DistillationConfig, {"entry_clip": -1.0}, "entry_clip=-1.0: must be above 0"),
        (DistillationConfig, {"null_beta": 0.0}, "null_beta=0.0: must be above 0"),
        (
            DistillationConfig,
            {"level": "token", "divergence": "reverse_kl", "entry_clip": 1.0},
            "set level=logit",
        ),
        (PolicyGradientConfig, {"clip_low": 1.2}, "clip_low=1.2: must be at most 1"),
        (PolicyGradientConfig, {"clip_high": -0.1}, "clip_high=-0.1: must be at least 0"),
        (AnchorConfig, {"coefficient": 0.0}, "coefficient=0.0: must be above 0"),
        (AnchorConfig, {"estimator": "k1"}, "sampled, support"),
        (ImportanceConfig, {"is_clip": 0.0}, "is_clip=0.0: must be above 0"),
        (ImportanceConfig, {"mismatch_cap": -2.0}, "mismatch_cap=-2.0: must be above 0"),
        (
            ObjectiveConfig,
            {"distillation": None},
            "distillation=null: weighting.kind=sdpo sends attempts to it",
        ),
        (ObjectiveConfig, {"weighting": GRPO}, "policy_gradient=null"),
        (
            ObjectiveConfig,
            {"weighting": GRPO, "policy_gradient": PolicyGradientConfig()},
            "is never used with",
        ),
        (ObjectiveConfig, {"policy_gradient": PolicyGradientConfig()}, "is never used with"),
        (ObjectiveConfig, {"anchor": AnchorConfig()}, "policy_gradient=null"),
        (ObjectiveConfig, {"denominator": "mean"}, "global_token, official"),
        (
            ObjectiveConfig,
            {"denominator": "seq_mean_token_sum_norm"},
            "norm_length=null: belongs to",
        ),
        (ObjectiveConfig, {"norm_length": 5}, "norm_length=5: belongs to"),
        (
            ObjectiveConfig,
            {"denominator": "seq_mean_token_sum_norm", "norm_length": 0},
            "norm_length=0: must be at least 1",
        ),
    ],
)
def test_settings_that_cannot_work(config: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**fields)


def test_an_objective_knows_what_it_needs() -> None:
    sdpo = build_objective(ObjectiveConfig())
    assert (sdpo.needs_teacher, sdpo.needs_null_teacher, sdpo.needs_reference) == (
        True,
        False,
        False,
    )
    assert (sdpo.needs_old_log_probs, sdpo.needs_sequence_gap, sdpo.top_k) == (False, False, 100)
    null = build_objective(ObjectiveConfig(distillation=DistillationConfig(null_beta=1.0)))
    assert null.needs_null_teacher
    grpo = build_objective(
        ObjectiveConfig(
            weighting=GRPO,
            distillation=None,
            policy_gradient=PolicyGradientConfig(),
            anchor=AnchorConfig(),
            off_policy=True,
        )
    )
    assert (grpo.needs_teacher, grpo.needs_reference, grpo.needs_old_log_probs) == (
        False,
        True,
        True,
    )
    assert grpo.top_k == 0  # no support: no top-K is computed
    sequence = DistillationConfig(level="sequence", divergence="reverse_kl")
    assert build_objective(ObjectiveConfig(distillation=sequence)).needs_sequence_gap


def head(coefficient: float = 1.0) -> TeacherHead:
    return TeacherHead(torch.zeros(2, 3), torch.zeros(4, 3), coefficient)


def test_targets_are_linear_combinations_that_add_up_to_one() -> None:
    mixed = trust_region(head(), head(), 0.25)
    assert [h.coefficient for h in mixed.heads] == [0.75, 0.25]
    corrected = null_corrected(mixed, single(head().hidden, head().weight), beta=2.0)
    assert [h.coefficient for h in corrected.heads] == [1.5, 0.5, -2.0]
    assert corrected.student_coefficient == 1.0
    whole = corrected.with_student(torch.zeros(2, 3), torch.zeros(4, 3))
    assert [h.coefficient for h in whole.heads] == [1.5, 0.5, -2.0, 1.0]
    assert whole.student_coefficient == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TeacherTarget([]), "no heads"),
        (lambda: TeacherTarget([head(0.5)]), "add up to 0.5, expected 1"),
        (lambda: trust_region(head(), head(), 1.5), "rate 1.5"),
        (lambda: null_corrected(TeacherTarget([head()]), TeacherTarget([head()]), 0.0), "beta 0"),
        (
            lambda: null_corrected(TeacherTarget([head(0.5)], 0.5), TeacherTarget([head()]), 1.0),
            "plain targets",
        ),
    ],
)
def test_targets_that_cannot_work(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_token_targets_must_have_one_shape() -> None:
    ids, ones = torch.zeros(3, dtype=torch.int64), torch.ones(3)
    with pytest.raises(ValueError, match=r"advantage: got \(2,\), expected \(3,\)"):
        TokenTargets(
            token_ids=ids,
            distill_weight=ones,
            policy_weight=ones,
            advantage=torch.ones(2),
            rollout_log_probs=ones,
            sequence_ids=ids,
            loss_mask=ones > 0,
        )
