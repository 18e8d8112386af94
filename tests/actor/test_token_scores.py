"""Which attempts of a step are scored for a reader."""

from __future__ import annotations

from dataclasses import replace

import torch

from sdpo_megatron.actor.token_scores import Part, TokenScoring, choose, joined, key_of
from sdpo_megatron.nouns import TrainSample
from sdpo_megatron.objectives import HeadOptions, TeacherTarget
from sdpo_megatron.objectives.targets import TeacherHead


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
    names = [key[:2] for key in choose(samples, 99)]
    assert names[:5] == [("a", 0), ("b", 1), ("c", 0), ("a", 2), ("b", 0)]
    assert names[5:] == [("a", 1), ("a", 3)]
    assert choose(samples, 5) == choose(samples, 99)[:5]
    assert choose(samples, 0) == []


def test_what_nobody_teaches_is_left_out() -> None:
    assert choose([sample("a", 0, taught=False), sample("a", 1)], 8) == [key_of(sample("a", 1))]
    assert choose([], 8) == []


def part(made: TrainSample, *positions: int) -> Part:
    return Part(made, {p: (-float(p), -1.0, ()) for p in positions})


def found(*parts: Part) -> dict[tuple[str, int, int], Part]:
    return {key_of(one.sample): one for one in parts}


def test_attempts_of_data_parallel_ranks_are_put_together_up_to_the_limit() -> None:
    ranks = [
        found(part(sample("b", 0), 0)),
        {},  # a rank of an earlier pipeline stage
        found(*(part(sample("a", i), 0) for i in (1, 0))),
    ]
    names = [(a.question_id, a.index) for a in joined(ranks, 9)]
    assert names == [("a", 0), ("a", 1), ("b", 0)]
    assert [(a.question_id, a.index) for a in joined(ranks, 2)] == [("a", 0), ("b", 0)]
    assert joined([], 8) == []


def test_tokens_of_context_parallel_ranks_are_put_in_order() -> None:
    ranks = [found(part(sample("a", 0), 0, 3)), found(part(sample("a", 0), 1, 2))]
    (one,) = joined(ranks, 8)
    assert one.student == (0.0, -1.0, -2.0, -3.0)


def test_a_question_that_a_batch_holds_twice_has_two_attempts_of_an_index() -> None:
    """As at the border of two epochs, or where groups end in another order than they began."""
    short = sample("a", 0)
    long = replace(short, response_ids=(2, 4), loss_mask=(True,) * 2, log_probs=(-1.0, -2.0))
    vocabulary, hidden = 5, torch.randn(3, 4)
    weight = torch.randn(vocabulary, 4)
    scoring = TokenScoring([short, long], 8)
    scoring.score(
        [short, long], None, hidden, weight, TeacherTarget([TeacherHead(hidden, weight)]),
        HeadOptions(vocab_size=vocabulary),
    )  # fmt: skip
    attempts = joined([scoring._parts()], 8)
    assert sorted(a.response_ids for a in attempts) == [(2,), (2, 4)]
    expected = torch.log_softmax(hidden @ weight.T, -1)[[0, 1, 2], [2, 2, 4]]
    by_length = sorted(attempts, key=lambda a: len(a.response_ids))
    assert torch.tensor([*by_length[0].student, *by_length[1].student]).allclose(
        expected, atol=1e-3
    )
