"""The loss of one optimiser step, micro-batch by micro-batch: token targets with masks and
denominators folded in.

The global counts come with the plan, so they need no collective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdpo_megatron.actor.batches.context_parallel import select
from sdpo_megatron.actor.batches.counts import StepCounts
from sdpo_megatron.actor.batches.packing import PackedSequences
from sdpo_megatron.actor.teacher import Targets
from sdpo_megatron.actor.token_scores import TokenScoring
from sdpo_megatron.errors import NumericsError
from sdpo_megatron.nouns import TrainSample
from sdpo_megatron.objectives import (
    GlobalCounts,
    HeadOptions,
    Objective,
    TeacherTarget,
    TokenTargets,
    token_weights,
)
from sdpo_megatron.objectives.fused.head_loss import head_loss


def token_targets(
    samples: Sequence[TrainSample],
    counts: StepCounts,
    objective: Objective,
    device: torch.device,
    old_log_probs: torch.Tensor | None,
) -> TokenTargets:
    """The response tokens of a micro-batch, flat, in the order of `samples`; `old_log_probs` [R] is
    log pi_old of them, None where nobody asks for it.
    """
    config = objective.config
    distill = _folded(
        samples, "distill_weight", counts.distill, config.denominator, config.norm_length
    )
    policy = _folded(
        samples, "policy_weight", counts.policy, config.denominator, config.norm_length
    )

    lengths = [len(s.response_ids) for s in samples]

    def flat(parts: Sequence[NDArray[Any]], dtype: type[np.generic]) -> torch.Tensor:
        """[tokens], one array a sample put together."""
        whole = np.concatenate(parts) if parts else np.zeros(0)
        return torch.from_numpy(whole.astype(dtype)).to(device)

    def spread(values: Sequence[Any], dtype: type[np.generic] = np.float32) -> torch.Tensor:
        """[tokens], one value a sample repeated."""
        return torch.from_numpy(np.repeat(np.asarray(values, dtype), lengths)).to(device)

    loss_mask = flat([s.loss_mask for s in samples], np.bool_)
    return TokenTargets(
        token_ids=flat([s.response_ids for s in samples], np.int64),
        distill_weight=spread(distill) * loss_mask,
        policy_weight=spread(policy) * loss_mask,
        advantage=spread([s.advantage for s in samples]),
        rollout_log_probs=flat([s.log_probs for s in samples], np.float32),
        sequence_ids=spread(range(len(samples)), np.int64),
        loss_mask=loss_mask,
        old_log_probs=old_log_probs,
        success=spread([s.success for s in samples], np.bool_),
        position=flat([np.arange(length) / length for length in lengths], np.float32),
    )


class BatchLoss:
    """The loss function that the pipeline calls on the last stage; remembers the first numerical
    fault instead of raising.

    A rank that raised inside the schedule would leave the others waiting in it; the actor asks for
    `fault` afterwards and all ranks fail together.
    """

    def __init__(
        self,
        objective: Objective,
        weight: torch.Tensor | None,
        options: HeadOptions,
        samples: Sequence[Sequence[TrainSample]],
        packed: Sequence[PackedSequences],
        counts: StepCounts,
        targets: Sequence[Targets],
        old_log_probs: Sequence[torch.Tensor] | None,
        scoring: TokenScoring | None = None,
        *,
        before_backward: Callable[[], None] | None = None,
    ) -> None:
        """`samples`, the student's `packed`, `targets` and `old_log_probs` by micro-batch of this
        rank; `targets` is empty, `old_log_probs` None where the objective needs none. `scoring`
        looks at what the loss is given; `before_backward` is called when the backward pass of a
        micro-batch begins.
        """
        self._before_backward = before_backward
        self._objective, self._weight, self._options = objective, weight, options
        self._samples, self._packed, self._counts = samples, packed, counts
        self._targets, self._old, self._scoring = targets, old_log_probs, scoring
        self.fault: str | None = None

    def __call__(
        self, number: int, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        assert self._weight is not None
        samples = self._samples[number]
        against = self._targets[number] if self._targets else Targets()
        old = None if self._old is None else self._old[number]
        tokens = token_targets(samples, self._counts, self._objective, hidden.device, old)
        mine = self._packed[number].response_index
        teacher = _local(against.teacher, hidden.device, mine)
        try:
            result = head_loss(
                hidden,
                self._weight,
                tokens if mine is None else select(tokens, mine),
                self._objective,
                teacher,
                reference=_local(against.reference, hidden.device, mine),
                options=self._options,
                # Gradients of the head go to where Megatron's DDP adds them up anyway.
                main_grad=getattr(self._weight, "main_grad", None),
            )
        except NumericsError as error:
            who = ", ".join(
                f"sequence {i} is {s.question_id} attempt {s.index}" for i, s in enumerate(samples)
            )
            self.fault = self.fault or f"{error} ({who})"
            # Zero gradients, and the graph intact, so that the schedule comes to its end.
            anything = torch.nan_to_num(hidden.float()).sum()
            if self._before_backward is not None:  # somebody waits for the head's gradient
                anything = anything + torch.nan_to_num(self._weight[:1].float()).sum()
            return anything * 0.0, {}
        if self._scoring is not None:
            self._scoring.score(samples, mine, hidden, self._weight, teacher, self._options)
        loss, report = result.loss, {"loss": result.loss.detach().clone(), **result.sums}
        if self._before_backward is not None:
            loss = _Notice.apply(loss, self._before_backward)
        return loss, report


class _Notice(torch.autograd.Function):
    """The identity; in the backward pass, calls what it was given."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, call: Callable[[], None]) -> torch.Tensor:
        ctx.call = call
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        ctx.call()
        return grad, None


def _folded(
    samples: Sequence[TrainSample],
    weight: str,
    counts: GlobalCounts,
    denominator: str,
    norm_length: int | None,
) -> list[float]:
    """Weight of one trained token of each sample: the sample's weight over the denominator."""
    trained = [int(s.loss_mask.sum()) if getattr(s, weight) else 0 for s in samples]
    per_token = token_weights(denominator, trained, counts, norm_length=norm_length)
    return [getattr(s, weight) * share for s, share in zip(samples, per_token, strict=True)]


def _local(
    target: TeacherTarget | None, device: torch.device, rows: torch.Tensor | None
) -> TeacherTarget | None:
    """The target on the device (its hidden states may be kept on the host), cut to the response
    tokens that this context-parallel rank holds.
    """
    if target is None:
        return None
    heads = []
    for head in target.heads:
        hidden = head.hidden.to(device, non_blocking=True)
        heads.append(replace(head, hidden=hidden if rows is None else hidden[rows]))
    return replace(target, heads=heads)
