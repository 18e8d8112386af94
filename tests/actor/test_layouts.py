"""Five training steps give the same losses and gradient norms under every parallel layout and
micro-batch size.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.actor.worlds import made_up_samples, make_actor, tiny_model
from tests.distributed import run_ranks

STEPS = 5


def train(
    rank: int, world: int, folder: str, changes: dict[str, Any]
) -> list[tuple[float, float, float]]:
    """(loss, gradient norm, teacher divergence) of each step."""
    from sdpo_megatron.actor.config import BatchConfig
    from sdpo_megatron.actor.config_model import ParallelConfig

    changes = dict(changes)
    layout = ParallelConfig(**changes.pop("layout", {}))
    batch = BatchConfig(micro_batch_tokens=changes.pop("tokens", 80), chunk_tokens=16)
    actor = make_actor(folder, parallel=layout, batch=batch)
    found = []
    for step in range(STEPS):
        metrics = actor.step(made_up_samples(step))
        found.append(
            (metrics["train/loss"], metrics["train/grad_norm"], metrics["teacher/kl_mean"])
        )
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def alone(model: str) -> list[tuple[float, float, float]]:
    """One rank."""
    return run_ranks(train, 1, model, {})[0]


def test_the_loss_changes_from_step_to_step(alone: list[tuple[float, float, float]]) -> None:
    losses = [loss for loss, _, _ in alone]
    assert len(set(losses)) == STEPS
    assert all(norm > 0.01 for _, norm, _ in alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "changes"),
    [
        pytest.param(2, {"layout": {"tensor": 2}}, id="TP2"),
        pytest.param(2, {"layout": {"pipeline": 2}}, id="PP2"),
        pytest.param(2, {}, id="DP2"),
        pytest.param(4, {"layout": {"tensor": 2, "pipeline": 2}}, id="TP2xPP2"),
        pytest.param(2, {"layout": {"tensor": 2, "sequence_parallel": True}}, id="TP2+SP"),
        pytest.param(1, {"tokens": 40}, id="small-micro-batches"),
        pytest.param(1, {"tokens": 4096}, id="one-micro-batch"),
    ],
)
def test_five_steps_equal_those_of_one_rank(
    model: str, alone: list[tuple[float, float, float]], world: int, changes: dict[str, Any]
) -> None:
    for steps in run_ranks(train, world, model, changes):
        for step, (expected, got) in enumerate(zip(alone, steps, strict=True)):
            assert got == pytest.approx(expected, rel=1e-4), f"step {step}"
