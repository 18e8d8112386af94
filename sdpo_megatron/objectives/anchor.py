"""The KL anchor: keep the policy near a reference model (a GRPO baseline option; KL 0 by default).

    loss = coefficient * sum_t w_t * KL_t(pi || reference)

`sampled` estimates KL_t from the sampled token, exp(d) - d - 1 with d = log ref(y) - log pi(y):
unbiased in value on-policy and never negative (Schulman's k3). `support` is the reverse KL on the
student's top-K and the tail: no sampling noise.
"""

from __future__ import annotations

from torch import Tensor

from sdpo_megatron.objectives.bins import with_tail
from sdpo_megatron.objectives.config import AnchorConfig
from sdpo_megatron.objectives.divergences import reverse_kl
from sdpo_megatron.objectives.importance import LOG_RATIO_BOUND
from sdpo_megatron.objectives.view import Distribution, TermResult, TokenView


class AnchorTerm:
    """The term that an `AnchorConfig` describes. It applies to tokens with a policy weight."""

    def __init__(self, config: AnchorConfig) -> None:
        self.config = config

    def __call__(self, view: TokenView) -> TermResult:
        assert view.reference is not None
        targets = view.targets
        kl = (
            self._sampled(view.student, view.reference)
            if self.config.estimator == "sampled"
            else self._support(view)
        )
        loss = self.config.coefficient * targets.policy_weight * kl
        mask = targets.loss_mask & (targets.policy_weight != 0)
        return TermResult(
            loss=loss,
            sums={"anchor_kl": (mask * kl.detach()).sum()},
        )

    @staticmethod
    def _sampled(student: Distribution, reference: Distribution) -> Tensor:
        gap = (reference.sampled - student.sampled).clamp(max=LOG_RATIO_BOUND)
        return gap.exp() - gap - 1.0

    @staticmethod
    def _support(view: TokenView) -> Tensor:
        assert view.reference is not None
        s, r = view.student.support, view.reference.support
        return view.total(
            reverse_kl(s, r)
            if view.complete
            else reverse_kl(
                with_tail(s, view.student.log_rest), with_tail(r, view.reference.log_rest)
            )
        )
