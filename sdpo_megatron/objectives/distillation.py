"""The SDPO term: pull the student's next-token distribution to the teacher's (method section 1).

    loss = sum_t w_t * rho_t * D_t        (Eq. 1)

w is mask, sample weight and denominator, rho the detached importance weights.

Levels: `logit` (D over the support), `token` and `sequence` (a policy gradient on the sampled token
with the advantage log q(y) - log pi(y), per token or averaged over the attempt).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdpo_megatron.objectives.bins import renormalised, with_tail
from sdpo_megatron.objectives.config import DistillationConfig, ImportanceConfig
from sdpo_megatron.objectives.divergences import divergence
from sdpo_megatron.objectives.importance import ratio, truncated
from sdpo_megatron.objectives.view import Distribution, TermResult, TokenView

THIRDS = ("first", "middle", "last")  # of the response: where the KL sits


class DistillationTerm:
    """The term that a `DistillationConfig` describes."""

    def __init__(self, config: DistillationConfig, importance: ImportanceConfig) -> None:
        self.config = config
        self.importance = importance
        self._entries = divergence(config.divergence, config.alpha)

    def __call__(self, view: TokenView) -> TermResult:
        assert view.teacher is not None
        per_token, clipped = (
            self._divergence(view) if self.config.level == "logit" else self._surrogate(view)
        )
        targets, now = view.targets, view.student.sampled.detach()
        old = now if targets.old_log_probs is None else targets.old_log_probs
        off_policy, mismatch = ratio(now, old), ratio(old, targets.rollout_log_probs)
        rho = truncated(off_policy, self.importance.is_clip) * truncated(
            mismatch, self.importance.mismatch_cap
        )
        loss = targets.distill_weight * rho * per_token
        kl = per_token.detach() if self.config.level == "logit" else now - view.teacher.sampled
        return TermResult(loss=loss, sums=self._sums(view, loss, kl, off_policy, clipped), kl=kl)

    def bins(self, dist: Distribution, complete: bool) -> Tensor:
        """Distribution over K ids and the tail, over the K ids alone, or over the vocabulary."""
        if complete:
            return dist.support
        if self.config.tail:
            return with_tail(dist.support, dist.log_rest)
        return renormalised(dist.support)

    def _divergence(self, view: TokenView) -> tuple[Tensor, Tensor]:
        """([C] divergence, [C] number of clipped entries)."""
        assert view.teacher is not None
        s, t = self.bins(view.student, view.complete), self.bins(view.teacher, view.complete)
        clipped = torch.zeros_like(view.student.sampled)
        if (bound := self.config.advantage_clip) is not None:
            gap = t - s.detach()
            clipped = view.total((gap.abs() > bound).to(s.dtype))
            t = s.detach() + gap.clamp(-bound, bound)
        entries = self._entries(s, t)
        if (bound := self.config.entry_clip) is not None:
            clipped = clipped + view.total((entries.detach() > bound).to(s.dtype))
            entries = entries.clamp(max=bound)
        return view.total(entries), clipped

    def _surrogate(self, view: TokenView) -> tuple[Tensor, Tensor]:
        """(log pi - log q).detach() * log pi.

        Its gradient is that of the reverse KL's one-sample estimate.
        """
        assert view.teacher is not None
        now = view.student.sampled
        gap = (
            view.sequence_gap
            if self.config.level == "sequence"
            else now.detach() - view.teacher.sampled
        )
        assert gap is not None
        clipped = torch.zeros_like(now)
        if (bound := self.config.advantage_clip) is not None:
            clipped = (gap.abs() > bound).to(now.dtype)
            gap = gap.clamp(-bound, bound)
        return gap * now, clipped

    def _sums(
        self, view: TokenView, loss: Tensor, kl: Tensor, off_policy: Tensor, clipped: Tensor
    ) -> dict[str, Tensor]:
        assert view.teacher is not None
        targets = view.targets
        mask = (targets.loss_mask & (targets.distill_weight != 0)).to(kl.dtype)
        success = torch.zeros_like(mask) if targets.success is None else mask * targets.success
        gain = view.teacher.sampled - view.student.sampled.detach()
        sums = {
            "distill_loss": loss.detach().sum(),
            "distill_tokens": mask.sum(),
            "kl": (mask * kl).sum(),
            "gain_success": (success * gain).sum(),
            "tokens_success": success.sum(),
            "gain_failed": ((mask - success) * gain).sum(),
            "tokens_failed": (mask - success).sum(),
            "distill_clipped_entries": (mask * clipped).sum(),
            "is_ratio": (mask * off_policy).sum(),
            "is_ratio_clipped": (
                mask * (off_policy > (self.importance.is_clip or torch.inf))
            ).sum(),
        }
        place = torch.zeros_like(mask) if targets.position is None else targets.position
        for index, third in enumerate(THIRDS):
            there = mask * ((place * len(THIRDS)).floor() == index)
            sums[f"kl_{third}_third"] = (there * kl).sum()
            sums[f"tokens_{third}_third"] = there.sum()
        if self.config.level == "logit":
            sums["student_support_mass"] = (mask * self._mass(view, view.student)).sum()
            sums["teacher_support_mass"] = (mask * self._mass(view, view.teacher)).sum()
        return sums

    @staticmethod
    def _mass(view: TokenView, dist: Distribution) -> Tensor:
        """[C], probability inside the support."""
        return (
            torch.ones_like(dist.sampled) if view.complete else dist.support.detach().exp().sum(-1)
        )
