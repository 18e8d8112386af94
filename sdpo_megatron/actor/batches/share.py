"""What a data-parallel rank does of a rollout batch: planned as places, trained on as samples.

Whoever plans knows the lengths of all samples and opens none; a rank knows the samples of its own
share and nothing of the others but the sums that the loss is divided by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sdpo_megatron.actor.batches.counts import StepCounts
from sdpo_megatron.actor.batches.packing import Role
from sdpo_megatron.actor.batches.table import Place
from sdpo_megatron.nouns import TrainSample

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StepShare(Generic[T]):
    """A data-parallel rank's share of one optimiser step; T is `Place` or `TrainSample`.

    Attributes:
        counts: Totals over all ranks.
        flops: Operations of the step on all ranks together.
        lengths: Tokens that every micro-batch of this rank is padded to, by role. "null" is there
            only where every sample with a distillation weight has a null prompt.
        micro_batches: As many on every rank; one without a sample is all padding.
    """

    counts: StepCounts
    flops: float
    lengths: Mapping[Role, int]
    micro_batches: tuple[tuple[T, ...], ...]


BatchPlan = tuple[StepShare[Place], ...]
"""By optimiser step of a rollout batch, what one data-parallel rank is told to do."""
BatchShare = tuple[StepShare[TrainSample], ...]
"""The same once the samples are there."""


def contents(steps: Sequence[StepShare[T]]) -> list[T]:
    """All places or samples, in the order in which `filled` takes items."""
    return [item for step in steps for part in step.micro_batches for item in part]


def filled(steps: Sequence[StepShare[Any]], items: Iterable[T]) -> tuple[StepShare[T], ...]:
    """The same shares with `items` in the place of ``contents(steps)``, in that order."""
    given = iter(items)
    found = [
        replace(
            step,
            micro_batches=tuple(tuple(next(given) for _ in part) for part in step.micro_batches),
        )
        for step in steps
    ]
    assert next(given, None) is None, "more items than places"
    return tuple(found)
