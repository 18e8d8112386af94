"""Which attempts of a step are scored for a reader."""

from __future__ import annotations

from sdpo_megatron.actor.token_scores import Part, choose, joined
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


def part(made: TrainSample, *positions: int) -> Part:
    return Part(made, {p: (-float(p), -1.0, ()) for p in positions})


def test_attempts_of_data_parallel_ranks_are_put_together_up_to_the_limit() -> None:
    ranks = [
        {("b", 0): part(sample("b", 0), 0)},
        {},  # a rank of an earlier pipeline stage
        {("a", i): part(sample("a", i), 0) for i in (1, 0)},
    ]
    names = [(a.question_id, a.index) for a in joined(ranks, 9)]
    assert names == [("a", 0), ("a", 1), ("b", 0)]
    assert [(a.question_id, a.index) for a in joined(ranks, 2)] == [("a", 0), ("b", 0)]
    assert joined([], 8) == []


def test_tokens_of_context_parallel_ranks_are_put_in_order() -> None:
    ranks = [{("a", 0): part(sample("a", 0), 0, 3)}, {("a", 0): part(sample("a", 0), 1, 2)}]
    (found,) = joined(ranks, 8)
    assert found.student == (0.0, -1.0, -2.0, -3.0)
