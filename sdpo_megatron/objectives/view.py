"""What a term of the loss sees of a chunk of tokens: log-probabilities at few ids, never logits.

C tokens of the chunk; S entries: the K ids of the support, or this rank's shard of the vocabulary
when the support is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from sdpo_megatron.objectives.targets import TokenTargets


@dataclass(frozen=True)
class Distribution:
    """Log-probabilities of one model over a chunk.

    Attributes:
        support: [C, S] at the entries of the support; S may be 0 when no term asks for it.
        sampled: [C] at the sampled token.
        log_rest: [C], log of the mass of all ids outside the support; -inf for none.
    """

    support: Tensor
    sampled: Tensor
    log_rest: Tensor


@dataclass(frozen=True)
class TokenView:
    """One chunk.

    Attributes:
        student: Leaves of a small autograd graph: what a term computes from them is differentiated,
            everything else is constant.
        teacher: The distillation target; None when the objective has none.
        reference: The anchor of the policy; None when the objective has none.
        targets: The chunk's tokens, weights and masks.
        complete: The entries cover the vocabulary (this rank's shard of it), so there is no tail.
        total: [C, S] entries -> [C], the sum over the support, over all ranks where it is spread
            over them.
        sequence_gap: [C], detached mean of log pi - log q over the attempt a token belongs to; None
            except at sequence level.
    """

    student: Distribution
    teacher: Distribution | None
    reference: Distribution | None
    targets: TokenTargets
    complete: bool
    total: Callable[[Tensor], Tensor]
    sequence_gap: Tensor | None = None


@dataclass(frozen=True)
class TermResult:
    """What a term adds to a chunk.

    Attributes:
        loss: [C], already weighted; the loss is its sum.
        sums: Sums over the chunk's tokens by metric name (0-dim or small vectors, detached); the
            same names for every chunk.
        kl: [C], the unweighted divergence of each token, detached; None from terms that have none.
    """

    loss: Tensor
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    kl: Tensor | None = None


class Term(Protocol):
    """One summand of the loss: a pure function of a chunk."""

    def __call__(self, view: TokenView) -> TermResult: ...
