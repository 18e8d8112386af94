"""Whether a group can teach anything, from its samples."""

from __future__ import annotations

import pytest

from sdpo_megatron.nouns import TrainSample
from sdpo_megatron.rollout.making import has_signal


def sample(distill: float, policy: float, advantage: float) -> TrainSample:
    return TrainSample(
        question_id="q", index=0, prompt_ids=(1,), response_ids=(2,), loss_mask=(True,),
        log_probs=(-1.0,), distill_weight=distill, policy_weight=policy, advantage=advantage,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([], False),
        ([(0.0, 1.0, 0.0), (0.0, 1.0, 0.0)], False),  # all rewarded alike, and no teacher
        ([(0.0, 1.0, 0.0), (0.0, 1.0, -0.5)], True),
        ([(0.0, 0.0, 0.5)], False),  # an advantage that the objective does not use
        ([(1.0, 0.0, 0.0), (0.0, 0.0, 0.0)], True),
    ],
)
def test_a_group_teaches_by_a_teacher_or_an_advantage(
    weights: list[tuple[float, float, float]], expected: bool
) -> None:
    assert has_signal([sample(*one) for one in weights]) is expected
