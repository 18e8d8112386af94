"""What student and teacher think of tokens, against dense log-softmaxes in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdpo_megatron.objectives import (
    DistillationConfig,
    HeadOptions,
    ObjectiveConfig,
    TeacherHead,
    TeacherTarget,
)
from sdpo_megatron.objectives.fused.token_scores import TokenScores, head_token_scores
from tests.objectives.cases import Case, make, shard
from tests.objectives.ranks import Ranks

PLAIN = ObjectiveConfig(distillation=DistillationConfig(top_k=5))
CORRECTED = ObjectiveConfig(distillation=DistillationConfig(top_k=5, null_beta=0.5))
CASES = {
    "single": Case(config=PLAIN),
    "cooler, padded, one chunk": Case(
        config=PLAIN, temperature=0.6, padding=3, chunk_tokens=64, seed=1
    ),
    "trust region": Case(config=PLAIN, teacher="trust_region", seed=2),
    "null corrected": Case(config=CORRECTED, seed=3),
}
NUM = 4


def score(group: Any, rank: int, world: int, case: Case, num: int = NUM) -> TokenScores:
    data = make(case)
    assert data.teacher is not None
    rows = [shard(w, world, rank, case.padding) for _, w, _ in data.teacher]
    heads = [TeacherHead(h, w, c) for (h, _, c), w in zip(data.teacher, rows, strict=True)]
    options = HeadOptions(
        temperature=case.temperature,
        chunk_tokens=case.chunk_tokens,
        tp_group=group,
        vocab_size=case.vocab,
    )
    return head_token_scores(
        data.hidden,
        shard(data.weight, world, rank, case.padding),
        data.token_ids,
        TeacherTarget(heads, data.student_coefficient),
        num,
        options,
    )


def score_all(group: Any, rank: int, world: int, cases: list[Case]) -> list[TokenScores]:
    return [score(group, rank, world, case) for case in cases]


def check(case: Case, got: TokenScores, num: int = NUM) -> None:
    data = make(case)
    assert data.teacher is not None

    def log_probs(parts: list[Any]) -> torch.Tensor:
        logits = sum(c * h.double() @ w.double().t() for h, w, c in parts)
        return torch.log_softmax(logits / case.temperature, -1)

    own = (data.hidden, data.weight, 1.0)
    corrected = (data.hidden, data.weight, data.student_coefficient)
    student, teacher = log_probs([own]), log_probs([*data.teacher, corrected])
    best = teacher.topk(num)
    assert torch.equal(got.alternatives, best.indices)
    for found, wanted in (
        (got.student, student.gather(-1, data.token_ids[:, None])[:, 0]),
        (got.teacher, teacher.gather(-1, data.token_ids[:, None])[:, 0]),
        (got.teacher_at, best.values),
        (got.student_at, student.gather(-1, best.indices)),
    ):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_the_dense_distributions(name: str) -> None:
    check(CASES[name], score(None, 0, 1, CASES[name]))


def test_a_split_vocabulary_changes_nothing(tp2: Ranks) -> None:
    cases = list(CASES.values())
    for ranks in zip(cases, *tp2.run(score_all, cases), strict=True):
        case, *outcomes = ranks
        for outcome in outcomes:
            check(case, outcome)


def test_no_more_alternatives_than_tokens_in_the_vocabulary() -> None:
    case = Case(config=PLAIN, vocab=3)
    check(case, score(None, 0, 1, case, num=9), num=3)
