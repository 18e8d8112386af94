"""Where a run stands; saved with every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sdpo_megatron.actor.drift import Part
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.nouns import PolicyVersion


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Counters of a run.

    Attributes:
        step: Rollout batches done; the data position is a function of it.
        optimizer_steps: Optimiser steps taken.
        version: Of the live weights. It grows with each step that changed them.
        skipped_steps: Steps without any teacher or policy signal, where no optimiser step was
            taken.
        search: Number of the search that is on, from 0 (`sdpo discover`).
        search_began: Steps before its first.
        fallen_back: What computes in bf16 instead of FP8 since its log-probabilities drifted.
    """

    step: int = 0
    optimizer_steps: int = 0
    version: PolicyVersion = field(default_factory=lambda: PolicyVersion(0))
    skipped_steps: int = 0
    search: int = 0
    search_began: int = 0
    fallen_back: tuple[Part, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """Plain data: what torch loads from a checkpoint without trusting it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TrainState:
        """The inverse of `to_plain`."""
        version = PolicyVersion(**plain["version"])
        fallen_back = tuple(plain.get("fallen_back", ()))
        return cls(**{**plain, "version": version, "fallen_back": fallen_back})


def diagnostics_due(config: TrainConfig, state: TrainState) -> bool:
    """Whether the next step also measures teacher_prompt_success and null_teacher_kl; the first
    step does where any does.
    """
    every = config.run.diagnostics_every
    distils = config.objective.distillation is not None
    return bool(every) and distils and state.step % every == 0
