"""Divergences between student and teacher, entry by entry (method section 1).

Each function takes log-probabilities of the student `s` and of the teacher `t` over the same
entries (K ids plus a tail bucket, or a shard of the whole vocabulary), both [C, S], and returns
what each entry contributes, [C, S]. The sum over entries is the divergence; it is taken by the
caller, because under tensor parallelism the entries of the whole vocabulary lie on several ranks.
The gradient flows through every entry of the student and through none of the teacher's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.objectives.config import Divergence

Entries = Callable[[Tensor, Tensor], Tensor]


def forward_kl(s: Tensor, t: Tensor) -> Tensor:
    """KL(t || s) = sum t (log t - log s). alpha = 0 in the authors' code."""
    return t.exp() * (t - s)


def reverse_kl(s: Tensor, t: Tensor) -> Tensor:
    """KL(s || t) = sum s (log s - log t). alpha = 1 in the authors' code."""
    return s.exp() * (s - t)


def jsd(s: Tensor, t: Tensor, alpha: float) -> Tensor:
    """(1-a) KL(s || M) + a KL(t || M) with M = (1-a) s + a t, 0 < a < 1."""
    m = torch.logaddexp(s + math.log1p(-alpha), t + math.log(alpha))
    return (1.0 - alpha) * s.exp() * (s - m) + alpha * t.exp() * (t - m)


def divergence(name: str, alpha: float) -> Entries:
    """The entry function of a divergence by its name.

    jsd at alpha 0 and 1 means forward and reverse KL, as in the authors' code (the formula itself
    is 0 there).

    Raises:
        ConfigError: unknown name, or alpha outside [0, 1].
    """
    if name not in DIVERGENCES:
        raise ConfigError(f"divergence: got {name!r}, expected one of {', '.join(DIVERGENCES)}")
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(f"divergence {name}: alpha {alpha:g} is outside [0, 1]")
    if name == "forward_kl" or (name == "jsd" and alpha == 0.0):
        return forward_kl
    if name == "reverse_kl" or (name == "jsd" and alpha == 1.0):
        return reverse_kl
    return partial(jsd, alpha=alpha)


DIVERGENCES = get_args(Divergence)
