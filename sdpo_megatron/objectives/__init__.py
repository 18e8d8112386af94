"""The objective: pure torch, no Megatron.

    config, objective       what is minimised: terms, weights, denominator
    distillation, policy_gradient, anchor   the terms, each a pure function of a chunk (view)
    divergences, bins, importance           what the terms are made of
    weighting, advantages, aggregate        rewards -> weights of attempts -> weights of tokens
    targets                 what the loss is computed against
    fused/                  how it is computed: from the LM head's input, chunk by chunk
    health                  metrics of learning from the summed statistics

Imports torch, pydantic (through `fields`) and `sdpo_megatron.errors` alone; the actor and the
rollout side import it. What needs torch is loaded when it is first asked for, so that a
configuration can be read without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sdpo_megatron.objectives.advantages import group_advantages
from sdpo_megatron.objectives.aggregate import GlobalCounts, token_weights
from sdpo_megatron.objectives.config import (
    AnchorConfig,
    DistillationConfig,
    GrpoWeighting,
    HybridWeighting,
    ImportanceConfig,
    ObjectiveConfig,
    PolicyGradientConfig,
    SdpoWeighting,
    SftWeighting,
    SrpoWeighting,
    WeightingConfig,
)
from sdpo_megatron.objectives.weighting import AttemptWeight

if TYPE_CHECKING:
    from sdpo_megatron.objectives.fused.options import HeadOptions, chunk_within
    from sdpo_megatron.objectives.fused.score import head_log_probs
    from sdpo_megatron.objectives.objective import Objective, build_objective
    from sdpo_megatron.objectives.targets import (
        TeacherHead,
        TeacherTarget,
        TokenTargets,
        null_corrected,
        single,
        trust_region,
    )

_WITH_TORCH = {
    "objective": ("Objective", "build_objective"),
    "fused.options": ("HeadOptions", "chunk_within"),
    "fused.score": ("head_log_probs",),
    "targets": (
        "TeacherHead",
        "TeacherTarget",
        "TokenTargets",
        "null_corrected",
        "single",
        "trust_region",
    ),
}

__all__ = [
    "AnchorConfig",
    "AttemptWeight",
    "DistillationConfig",
    "GlobalCounts",
    "GrpoWeighting",
    "HeadOptions",
    "HybridWeighting",
    "ImportanceConfig",
    "Objective",
    "ObjectiveConfig",
    "PolicyGradientConfig",
    "SdpoWeighting",
    "SftWeighting",
    "SrpoWeighting",
    "TeacherHead",
    "TeacherTarget",
    "TokenTargets",
    "WeightingConfig",
    "build_objective",
    "chunk_within",
    "group_advantages",
    "head_log_probs",
    "null_corrected",
    "single",
    "token_weights",
    "trust_region",
]


def __getattr__(name: str) -> Any:
    for module, names in _WITH_TORCH.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
