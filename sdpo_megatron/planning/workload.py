"""What one step has to do: attempts, their lengths, and the operations of the trainer's passes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.planning.lengths import Lengths
from sdpo_megatron.planning.memory import scoring_passes
from sdpo_megatron.weights.flops import forward_flops
from sdpo_megatron.weights.spec import ModelSpec

_POINTS = 64
"""Lengths that stand for all in sums that are not linear in them."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A rollout batch.

    Attributes:
        questions: Of the batch; each is a group.
        num_attempts: At each question.
        prompt, teacher_prompt: Tokens, on average.
        lengths: Of responses.
        taught: Share of the attempts that have a weight in the loss.
        scoring: Forward-only passes over an attempt: of teacher and reference (`teacher_prompt`),
            and of old log-probs (`prompt`).
    """

    questions: int
    num_attempts: int
    prompt: float
    teacher_prompt: float
    lengths: Lengths
    taught: float = 1.0
    scoring: tuple[int, int] = (1, 0)

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        *,
        prompt: float = 0,
        teacher_prompt: float = 0,
        response: float = 0,
        spread: float = 0.6,
        taught: float = 1.0,
    ) -> Workload:
        """That of a configuration; what it does not say is given, or half of its limit."""
        sampling = config.rollout.sampling
        limit = sampling.max_new_tokens
        prompt = prompt or sampling.max_prompt_tokens / 2
        own = teacher_prompt or min(
            prompt + (response or limit / 2), config.rollout.teacher_prompt.max_prompt_tokens
        )
        return cls(
            questions=config.batch.questions,
            num_attempts=sampling.num_attempts,
            prompt=prompt,
            teacher_prompt=own,
            lengths=Lengths(mean=response or limit / 2, spread=spread, limit=limit),
            taught=taught,
            scoring=(scoring_passes(config), int(config.objective.off_policy)),
        )

    @property
    def attempts(self) -> int:
        return self.questions * self.num_attempts

    @property
    def response_tokens(self) -> float:
        """Of all attempts."""
        return self.attempts * self.lengths.expected()

    def packed_tokens(self) -> float:
        """Of the taught attempts, prompts included, as packing counts them: the longer of student's
        and teacher's sequence.
        """
        longer = max(self.prompt, self.teacher_prompt if self.scoring[0] else 0)
        return self.attempts * self.taught * (longer + self.lengths.expected())

    def student_flops(self, spec: ModelSpec) -> float:
        """Of one forward pass over the taught attempts."""
        return self._flops(spec, self.prompt)

    def scoring_flops(self, spec: ModelSpec) -> float:
        """Of all forward-only passes."""
        teacher, old = self.scoring
        return teacher * self._flops(spec, self.teacher_prompt) + old * self._flops(
            spec, self.prompt
        )

    def _flops(self, spec: ModelSpec, prompt: float) -> float:
        lengths = self.lengths.evenly(_POINTS)
        total = sum(forward_flops(spec, round(prompt + n) - 1, math.ceil(n)) for n in lengths)
        return self.attempts * self.taught * total / len(lengths)
