"""An objective: the terms of a config, and what they need from the models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.objectives.anchor import AnchorTerm
from sdpo_megatron.objectives.config import ObjectiveConfig
from sdpo_megatron.objectives.distillation import DistillationTerm
from sdpo_megatron.objectives.importance import ratio
from sdpo_megatron.objectives.policy_gradient import PolicyGradientTerm
from sdpo_megatron.objectives.view import Term, TermResult, TokenView
from sdpo_megatron.objectives.weighting import AttemptWeight, weigh_group


class Objective:
    """The sum of its terms. Build it with `build_objective`.

    Attributes:
        config: What it was built from.
        terms: Its summands.
        top_k: Size of the support; None is the whole vocabulary, 0 is no support (sampled tokens
            only).
        needs_teacher: A TeacherTarget must be given.
        needs_null_teacher: The target is null-corrected: a pass over the empty template is needed
            as well.
        needs_old_log_probs: log pi_old must be scored before the first optimiser step on a batch.
        needs_reference: A reference target (for the KL anchor) must be given.
        needs_sequence_gap: The advantage is one scalar per attempt: log-probs of whole attempts
            come first.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self.config = config
        distillation, anchor = config.distillation, config.anchor
        self.terms: list[Term] = []
        if distillation is not None:
            self.terms.append(DistillationTerm(distillation, config.importance))
        if config.policy_gradient is not None:
            self.terms.append(PolicyGradientTerm(config.policy_gradient, config.importance))
        if anchor is not None:
            self.terms.append(AnchorTerm(anchor))
        self.needs_teacher = distillation is not None
        self.needs_null_teacher = distillation is not None and distillation.null_beta is not None
        self.needs_old_log_probs = config.off_policy
        self.needs_reference = anchor is not None
        self.needs_sequence_gap = distillation is not None and distillation.level == "sequence"
        self.top_k = self._support(config)

    @staticmethod
    def _support(config: ObjectiveConfig) -> int | None:
        distillation, anchor = config.distillation, config.anchor
        if distillation is not None and distillation.level == "logit":
            return distillation.top_k
        if anchor is not None and anchor.estimator == "support":
            return distillation.top_k if distillation is not None else 100
        return 0

    def weigh(
        self, rewards: Sequence[float], successes: Sequence[bool], has_teacher: Sequence[bool]
    ) -> list[AttemptWeight]:
        """Advantage and loss weights of the attempts of one question, in order."""
        return weigh_group(self.config.weighting, rewards, successes, has_teacher)

    def check(self, vocab_size: int) -> None:
        """Raises ConfigError where the vocabulary is smaller than the support."""
        if self.top_k is not None and self.top_k > vocab_size:
            raise ConfigError(
                f"distillation.top_k {self.top_k} is larger than the vocabulary of {vocab_size}; "
                f"set it to at most {vocab_size}, or to null for the exact full vocabulary"
            )

    def __call__(self, view: TokenView) -> TermResult:
        """Loss and sums of one chunk: those of all terms, and of the tokens themselves."""
        results = [term(view) for term in self.terms]
        loss = torch.stack([result.loss for result in results]).sum(0)
        sums = dict(self._token_sums(view))
        for result in results:
            sums.update(result.sums)
        kl = next((result.kl for result in results if result.kl is not None), None)
        return TermResult(loss=loss, sums=sums, kl=kl)

    def _token_sums(self, view: TokenView) -> dict[str, Tensor]:
        """Gap between the training and the rollout engine's log-probs, over all trained tokens."""
        targets, now = view.targets, view.student.sampled.detach()
        train = now if targets.old_log_probs is None else targets.old_log_probs
        mask = targets.loss_mask.to(now.dtype)
        cap = self.config.importance.mismatch_cap or torch.inf
        raw = ratio(train, targets.rollout_log_probs)
        weight = raw.clamp(max=cap)
        gap = targets.rollout_log_probs - train
        return {
            "tokens": mask.sum(),
            "log_prob": (mask * now).sum(),
            "mismatch_weight": (mask * weight).sum(),
            "mismatch_weight_squared": (mask * weight * weight).sum(),
            "mismatch_clipped": (mask * (raw > cap)).sum(),
            "mismatch_abs_gap": (mask * gap.abs()).sum(),
        }


def build_objective(config: ObjectiveConfig) -> Objective:
    """The objective that a config describes; the config has been validated when it was made."""
    return Objective(config)
