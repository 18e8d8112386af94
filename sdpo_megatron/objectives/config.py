"""The whole objective as one config: which terms, how attempts are weighted, the denominator."""

from __future__ import annotations

from dataclasses import dataclass, field

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.objectives.aggregate import DENOMINATORS
from sdpo_megatron.objectives.anchor import AnchorConfig
from sdpo_megatron.objectives.distillation import DistillationConfig
from sdpo_megatron.objectives.importance import ImportanceConfig
from sdpo_megatron.objectives.policy_gradient import PolicyGradientConfig
from sdpo_megatron.objectives.weighting import WeightingConfig


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised.

    Attributes:
        weighting: Which attempts go to which term.
        distillation: The SDPO term; None for none.
        policy_gradient: The GRPO term; None for none.
        anchor: KL to a reference on the attempts of the GRPO term; None for none.
        importance: Caps of the importance weights.
        denominator: "global_token" (default), "official", "seq_mean_token_mean" or
            "seq_mean_token_sum_norm".
        norm_length: Length in tokens that seq_mean_token_sum_norm divides by; None elsewhere.
        off_policy: A rollout batch serves more than one optimiser step, so log pi_old is scored
            before the first one.
        diagnostics: Also compute the teacher's own top-K, for its overlap with the student's.
    """

    weighting: WeightingConfig = field(default_factory=WeightingConfig)
    distillation: DistillationConfig | None = field(default_factory=DistillationConfig)
    policy_gradient: PolicyGradientConfig | None = None
    anchor: AnchorConfig | None = None
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    denominator: str = "global_token"
    norm_length: int | None = None
    off_policy: bool = False
    diagnostics: bool = True

    def __post_init__(self) -> None:
        kind = self.weighting.kind
        if kind != "grpo" and self.distillation is None:
            raise ConfigError(
                f"objective.weighting.kind {kind!r} sends attempts to distillation, but "
                "objective.distillation is null"
            )
        if kind != "sdpo" and self.policy_gradient is None:
            raise ConfigError(
                f"objective.weighting.kind {kind!r} sends attempts to GRPO, but "
                "objective.policy_gradient is null"
            )
        if kind == "grpo" and self.distillation is not None:
            raise ConfigError(
                "objective.weighting.kind 'grpo' never uses objective.distillation; set it to null"
            )
        if kind == "sdpo" and self.policy_gradient is not None:
            raise ConfigError(
                "objective.weighting.kind 'sdpo' never uses objective.policy_gradient; set it to "
                "null"
            )
        if self.anchor is not None and self.policy_gradient is None:
            raise ConfigError(
                "objective.anchor holds the attempts of the GRPO term, but "
                "objective.policy_gradient is null"
            )
        if self.denominator not in DENOMINATORS:
            raise ConfigError(
                f"objective.denominator: got {self.denominator!r}, expected one of "
                f"{', '.join(DENOMINATORS)}"
            )
        if (self.denominator == "seq_mean_token_sum_norm") != (self.norm_length is not None):
            raise ConfigError(
                f"objective.norm_length: got {self.norm_length} with denominator "
                f"{self.denominator!r}; it belongs to "
                "seq_mean_token_sum_norm, which needs it (the response limit, in tokens)"
            )
        if self.norm_length is not None and self.norm_length < 1:
            raise ConfigError(
                f"objective.norm_length: got {self.norm_length}, expected a positive number of "
                "tokens"
            )
