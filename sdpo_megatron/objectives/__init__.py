"""The objective: pure torch, no Megatron.

    config, objective       what is minimised: terms, weights, denominator
    distillation, policy_gradient, anchor   the terms, each a pure function of a chunk (view)
    divergences, bins, importance           what the terms are made of
    weighting, advantages, aggregate        rewards -> weights of attempts -> weights of tokens
    head_loss, chunk, score     LM head -> loss and gradients, chunk by chunk
    logits, topk, shards    matrix products, exact top-K, the vocabulary over ranks
    targets                 what the loss is computed against
    health                  metrics of learning from the summed statistics

Imports torch and `sdpo_megatron.errors` alone; the actor and the rollout side import it.
"""

from sdpo_megatron.objectives.advantages import group_advantages
from sdpo_megatron.objectives.aggregate import GlobalCounts, token_weights
from sdpo_megatron.objectives.anchor import AnchorConfig
from sdpo_megatron.objectives.config import ObjectiveConfig
from sdpo_megatron.objectives.distillation import DistillationConfig
from sdpo_megatron.objectives.head_loss import HeadLoss, head_loss
from sdpo_megatron.objectives.importance import ImportanceConfig
from sdpo_megatron.objectives.objective import Objective, build_objective
from sdpo_megatron.objectives.policy_gradient import PolicyGradientConfig
from sdpo_megatron.objectives.score import head_log_probs
from sdpo_megatron.objectives.targets import (
    TeacherHead,
    TeacherTarget,
    TokenTargets,
    null_corrected,
    single,
    trust_region,
)
from sdpo_megatron.objectives.weighting import AttemptWeight, WeightingConfig

__all__ = [
    "AnchorConfig",
    "AttemptWeight",
    "DistillationConfig",
    "GlobalCounts",
    "HeadLoss",
    "ImportanceConfig",
    "Objective",
    "ObjectiveConfig",
    "PolicyGradientConfig",
    "TeacherHead",
    "TeacherTarget",
    "TokenTargets",
    "WeightingConfig",
    "build_objective",
    "group_advantages",
    "head_log_probs",
    "head_loss",
    "null_corrected",
    "single",
    "token_weights",
    "trust_region",
]
