"""From log-probabilities at K ids to a distribution: with a tail bucket, or renormalised.

The specification (method section 1) writes the tail as log(-expm1(min(log S, -1e-7))), S the mass
of the K ids. In float32 that is 1 minus a number near 1: a tail of mass m has a relative error of
1e-7 / m, and language models leave tails of 1e-6. So the mass of the other ids is summed by itself,
in the pass that sums log Z anyway (`logits.normalise`), and it is a bin with a gradient of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The K ids can hold all the mass: the tail keeps 1e-7 then, and no gradient goes through it.
MIN_LOG_TAIL = math.log(-math.expm1(-1e-7))


def with_tail(log_probs: Tensor, log_rest: Tensor) -> Tensor:
    """[C, K] -> [C, K + 1]: append the bucket of everything else.

    Args:
        log_probs: [C, K], log p at the ids.
        log_rest: [C], log of the mass of all other ids; -inf for none.

    The tail is max(log_rest, log(1e-7)); where the bound is active its gradient is 0.
    """
    return torch.cat([log_probs, log_rest.clamp(min=MIN_LOG_TAIL).unsqueeze(-1)], dim=-1)


def renormalised(log_probs: Tensor) -> Tensor:
    """[C, K] -> [C, K]: the distribution given that one of the K ids was taken. Loses the signal
    that moves mass in or out.
    """
    return log_probs - torch.logsumexp(log_probs, dim=-1, keepdim=True)
