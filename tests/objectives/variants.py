"""Every variant of the objective by name, on small supports: what the comparisons run through."""

from __future__ import annotations

import itertools

from sdpo_megatron.objectives import (
    AnchorConfig,
    DistillationConfig,
    GrpoWeighting,
    HybridWeighting,
    ImportanceConfig,
    ObjectiveConfig,
    PolicyGradientConfig,
)


def _sdpo(**fields: object) -> ObjectiveConfig:
    return ObjectiveConfig(distillation=DistillationConfig(**fields))  # type: ignore[arg-type]


GRPO = PolicyGradientConfig()
TERMS = {"grpo": GrpoWeighting(), "hybrid": HybridWeighting()}

DIVERGENCES: dict[str, ObjectiveConfig] = {
    f"{name}-{'full' if top_k is None else top_k}-{'tail' if tail else 'no-tail'}": _sdpo(
        divergence=name, alpha=0.3, top_k=top_k, tail=tail
    )
    for name, top_k, tail in itertools.product(
        ("forward_kl", "reverse_kl", "jsd"), (1, 5, 20, None), (True, False)
    )
    if top_k is not None or tail
}

OTHERS: dict[str, ObjectiveConfig] = {
    "jsd-alpha-0": _sdpo(divergence="jsd", alpha=0.0, top_k=5),
    "jsd-alpha-1": _sdpo(divergence="jsd", alpha=1.0, top_k=5),
    "token": _sdpo(level="token", divergence="reverse_kl"),
    "token-advantage-clip": _sdpo(level="token", divergence="reverse_kl", advantage_clip=0.1),
    "sequence": _sdpo(level="sequence", divergence="reverse_kl"),
    "sequence-null-corrected": _sdpo(level="sequence", divergence="reverse_kl", null_beta=0.7),
    "null-corrected": _sdpo(top_k=5, null_beta=0.7),
    "null-corrected-full": _sdpo(top_k=None, null_beta=0.7),
    "entry-clip": _sdpo(top_k=5, entry_clip=0.02),
    "advantage-clip": _sdpo(top_k=5, divergence="reverse_kl", advantage_clip=0.2),
    "advantage-clip-full": _sdpo(top_k=None, divergence="reverse_kl", advantage_clip=0.2),
    "off-policy": ObjectiveConfig(
        distillation=DistillationConfig(top_k=5),
        off_policy=True,
        importance=ImportanceConfig(is_clip=1.5, mismatch_cap=1.2),
    ),
    "no-importance": ObjectiveConfig(
        distillation=DistillationConfig(top_k=5),
        off_policy=True,
        importance=ImportanceConfig(is_clip=None, mismatch_cap=None),
    ),
    "grpo": ObjectiveConfig(weighting=TERMS["grpo"], distillation=None, policy_gradient=GRPO),
    "grpo-off-policy": ObjectiveConfig(
        weighting=TERMS["grpo"], distillation=None, policy_gradient=GRPO, off_policy=True
    ),
    "grpo-anchor-sampled": ObjectiveConfig(
        weighting=TERMS["grpo"],
        distillation=None,
        policy_gradient=GRPO,
        anchor=AnchorConfig(coefficient=0.1),
    ),
    "hybrid": ObjectiveConfig(
        weighting=TERMS["hybrid"], distillation=DistillationConfig(top_k=5), policy_gradient=GRPO
    ),
    "hybrid-anchor-support": ObjectiveConfig(
        weighting=TERMS["hybrid"],
        distillation=DistillationConfig(top_k=5),
        policy_gradient=GRPO,
        anchor=AnchorConfig(coefficient=0.1, estimator="support"),
    ),
    "hybrid-anchor-full": ObjectiveConfig(
        weighting=TERMS["hybrid"],
        distillation=DistillationConfig(top_k=None),
        policy_gradient=GRPO,
        anchor=AnchorConfig(coefficient=0.1, estimator="support"),
    ),
}

ALL = DIVERGENCES | OTHERS
