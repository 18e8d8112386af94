"""Denominators: what a token counts, so that a global batch's loss is a plain sum over its tokens.

Every function takes the number of trained tokens (loss mask True) of each sample at hand and the
totals of the global batch (over all micro-batches and data-parallel ranks), and returns the weight
of one trained token of each sample. The sum of weight x token loss over all ranks and micro-batches
is the loss of the step, however the batch was split.

    global_token             1 / N
        N trained tokens of the global batch.
    official                 n_micro / (B T_micro)
        Token mean of each micro-batch, weighted by its share of the samples. It depends on packing;
        with one sample a micro-batch it is seq_mean_token_mean.
    seq_mean_token_mean      1 / (B T_i)
        Mean over all samples of the mean over their tokens, under any packing.
    seq_mean_token_sum_norm  1 / (B L)
        Mean over all samples of the sum over their tokens, divided by L.

B samples of the global batch and n_micro of this micro-batch count whether a term trains on them
or not: a sample without a teacher adds 0 to the sum and 1 to B, as in the authors' code. N, T_micro
and T_i count the trained tokens of the term, in the batch, the micro-batch and sample i; L is a
constant length. docs/objective.md says which mode equals which of the authors'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.objectives.config import Denominator

DENOMINATORS = get_args(Denominator)


@dataclass(frozen=True, kw_only=True)
class GlobalCounts:
    """Totals over the global batch, for one term of the loss.

    Attributes:
        tokens: Number of tokens that the term trains on (those of samples whose weight is not 0).
        samples: Number of all samples, those that the term does not train on included.
    """

    tokens: int
    samples: int


def token_weights(
    name: str,
    trained_tokens: Sequence[int],
    counts: GlobalCounts,
    *,
    norm_length: int | None = None,
) -> list[float]:
    """The weight of one trained token of each sample of one micro-batch.

    Args:
        name: One of `DENOMINATORS`.
        trained_tokens: Trained tokens of each sample of this micro-batch; 0 for a sample that the
            term does not train on, which `official` counts as a sample all the same.
        counts: Totals of the global batch.
        norm_length: L of seq_mean_token_sum_norm, in tokens (the response limit).

    Returns:
        One weight a sample; 0.0 for samples without trained tokens.

    Raises:
        ConfigError: unknown name, or norm_length missing where it is needed.
    """
    if name not in DENOMINATORS:
        raise ConfigError(f"denominator: got {name!r}, expected one of {', '.join(DENOMINATORS)}")
    if name == "seq_mean_token_sum_norm" and (norm_length is None or norm_length < 1):
        raise ConfigError(
            f"denominator seq_mean_token_sum_norm: norm_length is {norm_length}, expected a "
            "positive number of tokens"
        )
    if sum(trained_tokens) > counts.tokens:
        raise ValueError(
            f"a micro-batch of {sum(trained_tokens)} trained tokens in a global batch of "
            f"{counts.tokens}"
        )
    here = len(trained_tokens)
    if here > counts.samples:
        raise ValueError(f"a micro-batch of {here} samples in a global batch of {counts.samples}")
    return [
        _weight(name, tokens, sum(trained_tokens), here, counts, norm_length or 0)
        if tokens
        else 0.0
        for tokens in trained_tokens
    ]


def _weight(
    name: str,
    tokens: int,
    micro_tokens: int,
    micro_samples: int,
    counts: GlobalCounts,
    norm_length: int,
) -> float:
    if name == "global_token":
        return 1.0 / counts.tokens
    if name == "official":
        return micro_samples / (counts.samples * micro_tokens)
    if name == "seq_mean_token_mean":
        return 1.0 / (counts.samples * tokens)
    return 1.0 / (counts.samples * norm_length)
