"""The GRPO term: a clipped policy gradient on the sampled tokens (method section 4).

    loss = sum_t -w_t * rho_t * max(min(r_t A, clip(r_t, 1 - low, 1 + high) A), c A)    where A < 0
           sum_t -w_t * rho_t *     min(r_t A, clip(r_t, 1 - low, 1 + high) A)          elsewhere
    r_t  = pi_now(y_t) / pi_old(y_t)

The bound c of the ratio where the advantage is negative is the dual clip (arXiv 1912.09729).
Without it a token much likelier now than when it was sampled has a gradient without a limit.

rho is the detached truncated importance weight of the train/rollout mismatch. With one optimiser
step per batch pi_old is pi_now, r is 1 and the gradient is that of -A log pi.
"""

from __future__ import annotations

import torch

from sdpo_megatron.objectives.config import ImportanceConfig, PolicyGradientConfig
from sdpo_megatron.objectives.importance import ratio, truncated
from sdpo_megatron.objectives.view import TermResult, TokenView


class PolicyGradientTerm:
    """The term that a `PolicyGradientConfig` describes."""

    def __init__(self, config: PolicyGradientConfig, importance: ImportanceConfig) -> None:
        self.config = config
        self.importance = importance

    def __call__(self, view: TokenView) -> TermResult:
        targets, now = view.targets, view.student.sampled
        old = now.detach() if targets.old_log_probs is None else targets.old_log_probs
        step, advantage = ratio(now, old), targets.advantage
        bounded = step.clamp(1.0 - self.config.clip_low, 1.0 + self.config.clip_high)
        rho = truncated(ratio(old, targets.rollout_log_probs), self.importance.mismatch_cap)
        followed = torch.minimum(step * advantage, bounded * advantage)
        dual = torch.zeros_like(advantage, dtype=torch.bool)
        if (bound := self.config.dual_clip) is not None:
            dual = (step > bound) & (advantage < 0)
            followed = torch.where(dual, bound * advantage, followed)
        loss = -targets.policy_weight * rho * followed
        mask = (targets.loss_mask & (targets.policy_weight != 0)).to(now.dtype)
        low = (step < 1.0 - self.config.clip_low) & (advantage < 0)
        high = (step > 1.0 + self.config.clip_high) & (advantage > 0)
        sums = {
            "policy_loss": loss.sum(),
            "policy_tokens": mask.sum(),
            "policy_clipped_low": (mask * low).sum(),
            "policy_clipped_high": (mask * high).sum(),
            "policy_clipped_dual": (mask * dual).sum(),
        }
        return TermResult(loss=loss, sums={name: value.detach() for name, value in sums.items()})
