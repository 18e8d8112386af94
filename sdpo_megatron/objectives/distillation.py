"""The SDPO term: pull the student's next-token distribution to the teacher's (method section 1).

    loss = sum_t w_t * rho_t * D_t        (Eq. 1)

w is mask, sample weight and denominator, rho the detached importance weights.

Levels: `logit` (D over the support), `token` and `sequence` (a policy gradient on the sampled token
with the advantage log q(y) - log pi(y), per token or averaged over the attempt).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.objectives.bins import renormalised, with_tail
from sdpo_megatron.objectives.divergences import divergence
from sdpo_megatron.objectives.importance import ImportanceConfig, ratio, truncated
from sdpo_megatron.objectives.view import Distribution, TermResult, TokenView

LEVELS = ("logit", "token", "sequence")
THIRDS = ("first", "middle", "last")  # of the response: where the KL sits


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """How the student is pulled to the teacher.

    Attributes:
        level: "logit" (default), "token" (sampled token only, reverse KL) or "sequence" (one scalar
            per attempt, reverse KL).
        divergence: "forward_kl", "reverse_kl" or "jsd"; at the levels token and sequence it must be
            "reverse_kl".
        alpha: Weight of the teacher in the mixture of jsd, in [0, 1]; 0 and 1 mean forward and
            reverse KL.
        top_k: Number of ids in the support, the student's most probable ones; None is the exact
            full vocabulary.
        tail: Add the bucket of all other ids; without it both distributions are renormalised over
            the support.
        entry_clip: Upper bound of each entry's contribution, in nats (arXiv 2601.18734); None is
            off.
        advantage_clip: Bound of |log q - log pi| per entry, in nats (5 in the paper's test-time
            runs); reverse KL only; None is off.
        null_beta: Null-corrected teacher: target = student + beta (content - empty template), in
            logits; None is off.
    """

    level: str = "logit"
    divergence: str = "jsd"
    alpha: float = 0.5
    top_k: int | None = 100
    tail: bool = True
    entry_clip: float | None = None
    advantage_clip: float | None = None
    null_beta: float | None = None

    def __post_init__(self) -> None:
        divergence(self.divergence, self.alpha)
        if self.level not in LEVELS:
            raise ConfigError(
                f"distillation.level: got {self.level!r}, expected one of {', '.join(LEVELS)}"
            )
        reverse = self.divergence == "reverse_kl" or (
            self.divergence == "jsd" and self.alpha == 1.0
        )
        if self.level != "logit" and not reverse:
            raise ConfigError(
                f"distillation.level {self.level!r} is a policy gradient on the sampled token, "
                "which is reverse KL; "
                f"got divergence {self.divergence!r}. Set divergence: reverse_kl"
            )
        if self.advantage_clip is not None and not reverse:
            raise ConfigError(
                "distillation.advantage_clip bounds the advantage log q - log pi, which only "
                "reverse KL has; "
                f"got divergence {self.divergence!r}. Set divergence: reverse_kl, or use entry_clip"
            )
        if self.level != "logit" and self.entry_clip is not None:
            raise ConfigError(
                "distillation.entry_clip bounds entries of the support; set level: logit, or use "
                "advantage_clip"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(
                f"distillation.top_k: got {self.top_k}, expected at least 1, or null for the full "
                "vocabulary"
            )
        for name in ("entry_clip", "advantage_clip", "null_beta"):
            value = getattr(self, name)
            if value is not None and value <= 0.0:
                raise ConfigError(
                    f"distillation.{name}: got {value:g}, expected a positive number, or null for "
                    "off"
                )


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
