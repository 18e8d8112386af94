"""The whole objective as one config: which terms, how attempts are weighted, the denominator.

Without torch, so that a configuration is checked before anything heavy is loaded.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from sdpo_megatron.fields import (
    Fraction,
    NonNegative,
    Positive,
    PositiveInt,
    refuse,
    settings,
)

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]
Denominator = Literal["global_token", "official", "seq_mean_token_mean", "seq_mean_token_sum_norm"]


@settings
class DistillationConfig:
    """How the student is pulled to the teacher (`distillation.py`)."""

    level: Literal["logit", "token", "sequence"] = "logit"
    """logit: the divergence over the support; token: the sampled token only, reverse KL; sequence:
    one scalar per attempt, reverse KL."""
    divergence: Divergence = "jsd"
    """At the levels token and sequence it must be reverse_kl."""
    alpha: Fraction = 0.5
    """Weight of the teacher in the mixture of jsd; 0 and 1 mean forward and reverse KL."""
    top_k: PositiveInt | None = 100
    """Number of ids in the support, the student's most probable ones; null is the exact full
    vocabulary."""
    tail: bool = True
    """Add the bucket of all other ids; without it both distributions are renormalised over the
    support."""
    entry_clip: Positive | None = None
    """Upper bound of each entry's contribution, in nats (arXiv 2601.18734); null is off."""
    advantage_clip: Positive | None = None
    """Bound of |log q - log pi| per entry, in nats (5 in the paper's test-time runs); reverse KL
    only; null is off."""
    null_beta: Positive | None = None
    """Null-corrected teacher: target = student + beta (content - empty template), in logits; null
    is off."""

    def __post_init__(self) -> None:
        problems = []
        if self.level != "logit" and not self.is_reverse:
            problems.append(
                (
                    "level",
                    "is a policy gradient on the sampled token, which is reverse KL, but here "
                    "{divergence}: set {divergence:key}=reverse_kl",
                )
            )
        if self.advantage_clip is not None and not self.is_reverse:
            problems.append(
                (
                    "advantage_clip",
                    "bounds the advantage log q - log pi, which only reverse KL has, but here "
                    "{divergence}: set {divergence:key}=reverse_kl, or use {entry_clip:key}",
                )
            )
        if self.level != "logit" and self.entry_clip is not None:
            problems.append(
                (
                    "entry_clip",
                    "bounds entries of the support: set {level:key}=logit, or use "
                    "{advantage_clip:key}",
                )
            )
        refuse(self, problems)

    @property
    def is_reverse(self) -> bool:
        """Whether the divergence is reverse KL, by name or as jsd at alpha 1."""
        return self.divergence == "reverse_kl" or (self.divergence == "jsd" and self.alpha == 1.0)


@settings
class PolicyGradientConfig:
    """The clipping of GRPO (`policy_gradient.py`)."""

    clip_low: Fraction = 0.2
    """The ratio is not followed below 1 - clip_low where the advantage is negative."""
    clip_high: NonNegative = 0.28
    """The ratio is not followed above 1 + clip_high where the advantage is positive."""
    dual_clip: Annotated[float, Field(gt=1)] | None = 3.0
    """The ratio is not followed above it where the advantage is negative; null is off."""


@settings
class AnchorConfig:
    """How strongly the policy is held to the initial weights (`anchor.py`)."""

    coefficient: Positive = 0.001
    """Factor of the KL (GRPO papers use 0.001 to 0.04)."""
    estimator: Literal["sampled", "support"] = "sampled"
    """sampled: k3 on the sampled token; support: reverse KL on the top-K and the tail."""


@settings
class ImportanceConfig:
    """How far importance weights may go (`importance.py`)."""

    is_clip: Positive | None = 2.0
    """Cap of pi_now / pi_old on the distillation loss; null leaves it out. One step per batch makes
    it 1 anyway."""
    mismatch_cap: Positive | None = 2.0
    """Cap of pi_train / pi_rollout on every loss (truncated importance sampling); null leaves it
    out."""


@settings
class _Weighting:
    kind: str
    question_weight: Literal["none", "bernoulli_std"] = "none"
    """bernoulli_std: every attempt of a question counts sqrt(p (1 - p)), p its success rate (arXiv
    2605.27765)."""


@settings
class SdpoWeighting(_Weighting):
    """Every attempt to distillation."""

    kind: Literal["sdpo"] = "sdpo"
    """Every attempt is distilled."""


@settings
class GrpoWeighting(_Weighting):
    """Every attempt to the policy gradient."""

    kind: Literal["grpo"] = "grpo"
    """Every attempt gets the policy gradient."""


@settings
class HybridWeighting(_Weighting):
    """Every attempt to both (Eq. 3 of the paper)."""

    kind: Literal["hybrid"] = "hybrid"
    """Every attempt gets both."""
    lambda_grpo: Fraction = 0.9
    """Share of GRPO (0.9 helps models below 1 B in the paper)."""


@settings
class SrpoWeighting(_Weighting):
    """Correct attempts to the policy gradient, failed ones to distillation (arXiv 2604.02288)."""

    kind: Literal["srpo"] = "srpo"
    """Correct attempts get the policy gradient, failed ones are distilled."""


@settings
class SftWeighting(_Weighting):
    """Fine-tuning on the model's own correct attempts (rejection sampling), the baseline that knows
    no failure."""

    kind: Literal["sft"] = "sft"
    """Correct attempts are imitated, each with advantage 1; failed ones count nothing."""


WeightingConfig = Annotated[
    SdpoWeighting | GrpoWeighting | HybridWeighting | SrpoWeighting | SftWeighting,
    Field(discriminator="kind"),
]
"""Which attempts go to which term."""


@settings
class ObjectiveConfig:
    """What is minimised."""

    weighting: WeightingConfig = field(default_factory=SdpoWeighting)
    distillation: DistillationConfig | None = field(default_factory=DistillationConfig)
    policy_gradient: PolicyGradientConfig | None = None
    anchor: AnchorConfig | None = None
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    denominator: Denominator = "global_token"
    """What a token counts (docs/objective.md); the paper's recipes: seq_mean_token_mean."""
    norm_length: PositiveInt | None = None
    """Length in tokens that seq_mean_token_sum_norm divides by; null elsewhere."""
    off_policy: bool = False
    """A rollout batch serves more than one optimiser step, so log pi_old is scored before the first
    one."""
    diagnostics: bool = True
    """Also compute the teacher's own top-K, for its overlap with the student's."""

    def __post_init__(self) -> None:
        kind, problems = self.weighting.kind, []
        unused = {"distillation": ("grpo", "sft"), "policy_gradient": ("sdpo",)}
        for term, unused_with in unused.items():
            given = getattr(self, term) is not None
            if given and kind in unused_with:
                problems.append((term, "is never used with {weighting.kind}: set it to null"))
            elif not given and kind not in unused_with:
                problems.append((term, "{weighting.kind} sends attempts to it: give its settings"))
        if self.anchor is not None and self.policy_gradient is None:
            problems.append(
                ("anchor", "holds the attempts of the GRPO term, but {policy_gradient}")
            )
        if (self.denominator == "seq_mean_token_sum_norm") != (self.norm_length is not None):
            problems.append(
                (
                    "norm_length",
                    "belongs to {denominator:key}=seq_mean_token_sum_norm, which needs it (the "
                    "response limit, in tokens); here {denominator}",
                )
            )
        refuse(self, problems)
