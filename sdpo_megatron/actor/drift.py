"""Are the log-probabilities still those of the weights? Trainer against engine, FP8 against bf16.

An engine that serves other weights than it should, or a recipe whose rounding has grown with the
weights, gives no error: the policy just stops getting better. `DriftGate` watches two gaps, both a
mean of |log pi_a - log pi_b| over sampled tokens, in nats:

    engine   trainer at the weights that sampled, against what the engine said while it sampled
    fp8      the trainer's own forward pass in FP8, against one in bf16 on the same parameters

All ranks see the same numbers and decide alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch

from sdpo_megatron.actor.agree import sum_over_data_parallel
from sdpo_megatron.actor.batches.packing import PackedSequences
from sdpo_megatron.actor.config import DriftConfig
from sdpo_megatron.actor.model.pipeline import Pipeline
from sdpo_megatron.errors import DriftError

Part = Literal["engine", "trainer"]
"""What computes in FP8 and can go on in bf16."""


class DriftGate:
    """Counts steps above the limits.

    Attributes:
        in_fp8: What still computes in FP8, in the order in which it falls back.
        due: What is to fall back now; whoever does it takes it away with `take_due`.
    """

    def __init__(self, config: DriftConfig, in_fp8: Sequence[Part] = ()) -> None:
        self.config, self.in_fp8 = config, list(in_fp8)
        self.due: list[Part] = []
        self._above = {"engine": 0, "fp8": 0}

    def engine_gap(self, gap: float) -> None:
        """A step's gap between trainer and engine, before its optimiser step; NaN says nothing.

        Raises:
            DriftError: It is too large, and nothing can fall back.
        """
        if self._counts("engine", gap, self.config.engine_limit):
            self._act(
                f"trainer and engine are {gap:.3g} nats a token apart on the engine's own samples "
                f"(drift.engine_limit={self.config.engine_limit:g}). Do both have the same weights "
                "(swaps.jsonl), dtype and attention? With asynchronous rollouts, lower the "
                "staleness or raise the limit",
                self.in_fp8[:1],
            )

    def fp8_gap(self, gap: float) -> None:
        """A measurement of the trainer's FP8 against bf16. Raises as `engine_gap`."""
        if self._counts("fp8", gap, self.config.fp8_limit):
            self._act(
                f"the trainer in FP8 is {gap:.3g} nats a token from itself in bf16 "
                f"(drift.fp8_limit={self.config.fp8_limit:g}). Set precision.fp8=null, another "
                "recipe, or precision.bf16_layers",
                [part for part in self.in_fp8 if part == "trainer"],
            )

    def take_due(self) -> list[Part]:
        """What is to fall back now; counted as done."""
        due, self.due = self.due, []
        return due

    def _counts(self, which: str, gap: float, limit: float | None) -> bool:
        if limit is None or math.isnan(gap):
            return False
        self._above[which] = self._above[which] + 1 if gap > limit else 0
        return self._above[which] >= self.config.patience

    def _act(self, found: str, falls_back: Sequence[Part]) -> None:
        if self.due:  # another step of the same batch: it will fall back when the batch is done
            return
        if self.config.action == "stop" or not falls_back:
            raise DriftError(f"the optimiser step was not taken: {found}")
        self._above = dict.fromkeys(self._above, 0)
        self.in_fp8.remove(falls_back[0])
        self.due.append(falls_back[0])


@torch.no_grad()
def fp8_gap(
    pipeline: Pipeline,
    batches: Sequence[PackedSequences],
    log_probs: Callable[[int, torch.Tensor], torch.Tensor],
) -> float:
    """Mean |log pi in FP8 - log pi in bf16| over the response tokens of `batches`, of all
    data-parallel ranks; NaN without tokens. Collective; the same on every rank.

    Args:
        log_probs: (micro-batch number, its hidden states [R, H]) -> [R], on the last stage.
    """
    quantised = pipeline.hidden_states(batches)
    with in_bf16(pipeline.chunks):
        plain = pipeline.hidden_states(batches)
    gaps = [
        (log_probs(number, one) - log_probs(number, other)).abs().double()
        for number, (one, other) in enumerate(zip(quantised, plain, strict=True))
    ]
    mine = {}
    if gaps:
        together = torch.cat(gaps)
        mine = {"gap": together.sum(), "tokens": torch.ones_like(together).sum()}
    sums = sum_over_data_parallel(mine)
    return sums["gap"] / sums["tokens"] if sums["tokens"] else math.nan


@contextmanager
def in_bf16(chunks: Sequence[Any]) -> Iterator[None]:
    """While inside, the model computes in bf16 whatever its recipe: Megatron asks its configuration
    before each layer, and parameters are bf16 in any case."""
    configs = _configs(chunks)
    before = {key: config.fp8 for key, config in configs.items()}
    leave_fp8(chunks)
    try:
        yield
    finally:
        for key, config in configs.items():
            config.fp8 = before[key]


def leave_fp8(chunks: Sequence[Any]) -> None:
    """From now on the model computes in bf16."""
    for config in _configs(chunks).values():
        config.fp8 = None


def _configs(chunks: Sequence[Any]) -> Mapping[int, Any]:
    """Megatron's configurations in the model, by identity: one, unless a layer has its own."""
    modules = (module for chunk in chunks for module in chunk.modules())
    found = (getattr(module, "config", None) for module in modules)
    return {id(config): config for config in found if hasattr(config, "fp8")}
