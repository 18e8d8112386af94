"""The samples of a rollout batch as columns of numbers: what a step is planned on, without opening
one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdpo_megatron.actor.batches.packing import Role
from sdpo_megatron.nouns import GroupReceipt, SampleReceipt, TrainSample

Integers = NDArray[np.int64]
Place = tuple[int, int]
"""Where a sample is: number of its group in the batch, place among the group's samples."""


@dataclass(frozen=True, eq=False)
class SampleTable:
    """N samples in the order of the batch.

    Attributes:
        question_ids: [N].
        index: [N], attempt number. A question that comes twice in a batch goes on counting, so that
            (question, index) names a sample.
        places: [N], where each is.
        prompts: [N] by role: tokens of the prompt that it reads; its own where the sample has none
            of that role.
        responses: [N], response tokens.
        trained: [N], response tokens with loss mask True.
        distill_weight, policy_weight: float64 [N].
        has_null: Every sample with a distillation weight has a null prompt.
    """

    question_ids: list[str]
    index: list[int]
    places: list[Place]
    prompts: dict[Role, Integers]
    responses: Integers
    trained: Integers
    distill_weight: NDArray[np.float64]
    policy_weight: NDArray[np.float64]
    has_null: bool

    @classmethod
    def of_groups(cls, groups: Sequence[GroupReceipt]) -> SampleTable:
        """The samples of these groups; the number of a group is its place in `groups`."""
        seen: Counter[str] = Counter()
        names: list[tuple[str, int]] = []
        places: list[Place] = []
        found: list[SampleReceipt] = []
        for number, group in enumerate(groups):
            offset = seen[group.question_id]
            for place, sample in enumerate(group.samples):
                names.append((group.question_id, offset + sample.index))
                places.append((number, place))
            found += group.samples
            last = max((sample.index for sample in group.samples), default=-1)
            seen[group.question_id] += last + 1
        return cls._of(names, places, found)

    @classmethod
    def of_samples(cls, samples: Sequence[TrainSample]) -> SampleTable:
        """Samples that are in memory, as one group, under the names that they have."""
        names = [(sample.question_id, sample.index) for sample in samples]
        places = [(0, place) for place in range(len(samples))]
        return cls._of(names, places, [sample.receipt() for sample in samples])

    @classmethod
    def _of(
        cls, names: list[tuple[str, int]], places: list[Place], found: Sequence[SampleReceipt]
    ) -> SampleTable:
        def column(name: str, dtype: type[np.generic] = np.int64) -> Any:
            return np.array([getattr(receipt, name) for receipt in found], dtype)

        own = column("prompt_tokens")
        prompts: dict[Role, Integers] = {"student": own}
        for role in ("teacher", "null"):
            given = [getattr(receipt, f"{role}_tokens") for receipt in found]
            # One without a teacher is read under its own prompt, with weight 0.
            prompts[role] = np.where(
                [tokens is None for tokens in given], own, [tokens or 0 for tokens in given]
            ).astype(np.int64)
        return cls(
            question_ids=[question for question, _ in names],
            index=[index for _, index in names],
            places=places,
            prompts=prompts,
            responses=column("response_tokens"),
            trained=column("trained_tokens"),
            distill_weight=column("distill_weight", np.float64),
            policy_weight=column("policy_weight", np.float64),
            has_null=all(s.null_tokens is not None for s in found if s.distill_weight),
        )

    def __len__(self) -> int:
        return len(self.places)

    def tokens(self, role: Role, *, multiple_of: int = 1) -> Integers:
        """[N], tokens that enter the model in a pass of this role, rounded up; the last response
        token is predicted, but never fed.
        """
        length: Integers = self.prompts[role] + self.responses - 1
        return length + -length % multiple_of

    def longest(self) -> Integers:
        """[N], tokens of the longest role: what the budget of a micro-batch counts."""
        return np.maximum.reduce([self.tokens(role) for role in self.prompts])

    def name(self, row: int) -> str:
        return f"{self.question_ids[row]} attempt {self.index[row]}"
