"""Five training steps give the same losses and gradient norms under every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.actor.worlds import made_up_samples, make_actor, small_objective, tiny_model
from tests.distributed import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = 5
Row = tuple[float, float, float]
Scores = list[Any]  # of nouns.ScoredAttempt

# name: (ranks, what differs from one rank with small micro-batches, the case it must equal)
CASES: dict[str, tuple[int, dict[str, Any], str]] = {
    "one": (1, {}, "one"),
    "smaller micro-batches": (1, {"tokens": 40}, "one"),
    "one micro-batch": (1, {"tokens": 4096}, "one"),
    "TP2": (2, {"tensor": 2}, "one"),
    "PP2": (2, {"pipeline": 2}, "one"),
    "DP2": (2, {}, "one"),
    "TP2 and sequence parallel": (2, {"tensor": 2, "sequence_parallel": True}, "one"),
    "TP2 x PP2": (4, {"tensor": 2, "pipeline": 2}, "one"),
    "TP2 x DP2": (4, {"tensor": 2}, "one"),
    "GRPO, two steps a batch": (1, {"grpo": True}, "GRPO, two steps a batch"),
    "GRPO, TP2": (2, {"grpo": True, "tensor": 2}, "GRPO, two steps a batch"),
    "GRPO, PP2": (2, {"grpo": True, "pipeline": 2}, "GRPO, two steps a batch"),
    "GRPO, DP2": (2, {"grpo": True}, "GRPO, two steps a batch"),
    "one attempt": (1, {"attempts": 1}, "one attempt"),
    "one attempt, DP2: a rank has nothing to do": (2, {"attempts": 1}, "one attempt"),
    "no overlap, DP2": (2, {"overlap_grad_reduce": False}, "one"),
    "PP2 x DP2": (4, {"pipeline": 2}, "one"),
    "experts": (1, {"moe": True}, "experts"),
    "experts, EP2": (2, {"moe": True, "expert": 2}, "experts"),
    "experts, DP2": (2, {"moe": True}, "experts"),
}


def train(folders: dict[str, str], changes: dict[str, Any]) -> tuple[list[Row], Scores]:
    """(loss, gradient norm, weight of training against rollout engine) of each step, and what this
    rank knows of the tokens of the last one.
    """
    from megatron.core import parallel_state

    from sdpo_megatron.actor.config import BatchConfig, OptimizerConfig
    from sdpo_megatron.actor.model.config import ParallelConfig
    from sdpo_megatron.objectives import (
        GrpoWeighting,
        ObjectiveConfig,
        PolicyGradientConfig,
    )

    changes = dict(changes)
    folder = folders["moe" if changes.pop("moe", False) else "dense"]
    grpo = changes.pop("grpo", False)
    tokens = changes.pop("tokens", 80)
    attempts = changes.pop("attempts", None)
    off_policy_grpo = ObjectiveConfig(
        weighting=GrpoWeighting(),
        distillation=None,
        policy_gradient=PolicyGradientConfig(),
        off_policy=True,
    )
    questions = 2 if grpo else 0
    actor = make_actor(
        folder,
        parallel=ParallelConfig(**changes),
        batch=BatchConfig(
            questions=4, questions_per_step=questions, micro_batch_tokens=tokens, logits_mib=0.02
        ),
        optimizer=OptimizerConfig(lr=3e-3),
        objective=off_policy_grpo if grpo else small_objective(),
        report_attempts=6,
    )
    found = []
    for step in range(STEPS):
        samples = made_up_samples(step, questions=4)[:attempts]
        metrics = actor.step(actor.share_of(samples))
        found.append(
            (metrics["train/loss"], metrics["train/grad_norm"], metrics["importance/weight_mean"])
        )
    parallel_state.destroy_model_parallel()
    return found, actor.scored


def train_all(rank: int, world: int, folders: dict[str, str], names: list[str]) -> dict[str, Any]:
    """Several layouts one after the other in the same processes: starting them costs the most."""
    return {name: train(folders, CASES[name][1]) for name in names}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[list[Row], Scores]]]:
    """By case, what each rank reports."""
    root: Path = tmp_path_factory.mktemp("tiny")
    folders = {
        "dense": str(tiny_model(root / "dense")),
        "moe": str(tiny_model(root / "moe", family="qwen3_moe", tied=False)),
    }
    found: dict[str, list[tuple[list[Row], Scores]]] = {}
    for world in (1, 2, 4):
        names = [name for name, case in CASES.items() if case[0] == world]
        ranks = run_ranks(train_all, world, folders, names, timeout_s=300)
        found |= {name: [rank[name] for rank in ranks] for name in names}
    return found


@pytest.fixture(scope="module")
def rows(trained: dict[str, list[tuple[list[Row], Scores]]]) -> dict[str, list[list[Row]]]:
    return {name: [steps for steps, _ in ranks] for name, ranks in trained.items()}


def test_overlapped_reduction_changes_no_digit(rows: dict[str, list[list[Row]]]) -> None:
    assert rows["DP2"] == rows["no overlap, DP2"]


@pytest.mark.parametrize("name", ["one", "GRPO, two steps a batch", "experts"])
def test_something_is_learnt(name: str, rows: dict[str, list[list[Row]]]) -> None:
    (steps,) = rows[name]
    assert len({loss for loss, _, _ in steps}) == STEPS
    assert all(norm > 0.01 for _, norm, _ in steps)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case[2] != n])
def test_five_steps_equal_those_of_one_rank(name: str, rows: dict[str, list[list[Row]]]) -> None:
    (expected,) = rows[CASES[name][2]]
    for steps in rows[name]:
        for step, (want, got) in enumerate(zip(expected, steps, strict=True)):
            assert got == pytest.approx(want, rel=1e-4, abs=1e-7), f"step {step}"


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case[2] == "one"])
def test_rank_0_knows_how_the_teacher_saw_the_same_attempts(
    name: str, trained: dict[str, list[tuple[list[Row], Scores]]]
) -> None:
    ((_, expected),) = trained["one"]
    (_, found), *others = trained[name]
    assert [(a.question_id, a.index) for a in found] == [
        ("q0", 0), ("q0", 1), ("q1", 0), ("q1", 1), ("q2", 1), ("q3", 1),
    ]  # fmt: skip
    assert all(scored == [] for _, scored in others)
    for got, want in zip(found, expected, strict=True):
        assert got.response_ids == want.response_ids
        assert got.student == pytest.approx(want.student, abs=5e-4)
        assert got.teacher == pytest.approx(want.teacher, abs=5e-4)
        assert [[t for t, _, _ in others] for others in got.alternatives] == [
            [t for t, _, _ in others] for others in want.alternatives
        ]


def test_nobody_teaches_so_nothing_is_scored(
    trained: dict[str, list[tuple[list[Row], Scores]]],
) -> None:
    assert all(scored == [] for _, scored in trained["GRPO, DP2"])
