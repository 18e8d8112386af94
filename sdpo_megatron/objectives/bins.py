"""From log-probabilities at K ids to a distribution: with a tail bucket, or renormalised (method
section 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

# The K ids can hold all the mass in floating point. The clamp keeps the tail at 1e-7 or more, and
# its gradient finite.
MAX_LOG_MASS = -1e-7


def with_tail(log_probs: Tensor) -> Tensor:
    """[C, K] -> [C, K + 1]: append the bucket of everything else, log(1 - sum of the K
    probabilities).

    log_s = min(logsumexp, -1e-7); tail = log(-expm1(log_s)). Where the clamp is active the tail's
    gradient is 0.
    """
    log_mass = torch.logsumexp(log_probs, dim=-1, keepdim=True).clamp(max=MAX_LOG_MASS)
    return torch.cat([log_probs, torch.log(-torch.expm1(log_mass))], dim=-1)


def renormalised(log_probs: Tensor) -> Tensor:
    """[C, K] -> [C, K]: the distribution given that one of the K ids was taken. Loses the signal
    that moves mass in or out.
    """
    return log_probs - torch.logsumexp(log_probs, dim=-1, keepdim=True)
