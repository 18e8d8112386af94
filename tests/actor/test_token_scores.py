"""Which attempts of a step are scored for a reader."""

from __future__ import annotations

from sdpo_megatron.actor.token_scores import choose
from sdpo_megatron.nouns import TrainSample


def sample(question: str, index: int, *, success: bool = False, taught: bool = True) -> TrainSample:
    return TrainSample(
        question_id=question,
        index=index,
        prompt_ids=(1,),
        response_ids=(2,),
        loss_mask=(True,),
        log_probs=(-1.0,),
        teacher_prompt_ids=(1, 3) if taught else None,
        distill_weight=float(taught),
        success=success,
    )


def test_of_each_question_in_turn_a_failed_one_then_a_solved_one() -> None:
    samples = [
        *(sample("a", i, success=i == 2) for i in range(4)),
        *(sample("b", i, success=i == 0) for i in range(2)),
        sample("c", 0, success=True),
    ]
    assert choose(samples, 5) == [("a", 0), ("b", 1), ("c", 0), ("a", 2), ("b", 0)]
    assert choose(samples, 99)[5:] == [("a", 1), ("a", 3)]
    assert choose(samples, 0) == []


def test_what_nobody_teaches_is_left_out() -> None:
    assert choose([sample("a", 0, taught=False), sample("a", 1)], 8) == [("a", 1)]
    assert choose([], 8) == []
