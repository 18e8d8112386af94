"""Each kind of teacher against the same student in plain transformers, in float64."""

from __future__ import annotations

from typing import Any

import pytest

from sdpo_megatron.actor.config import OptimizerConfig, TeacherConfig
from sdpo_megatron.fields.reading import build
from tests.actor.reference import Plan, Reference
from tests.actor.worlds import made_up_samples, make_actor, small_objective, tiny_model
from tests.distributed import run_ranks

KINDS: dict[str, tuple[dict[str, Any], float | None]] = {
    "live": ({"kind": "live"}, None),
    "frozen": ({"kind": "frozen"}, None),
    "ema": ({"kind": "ema", "rate": 0.2}, None),
    "trust_region": ({"kind": "trust_region", "rate": 0.3}, None),
    "restart_freeze": ({"kind": "restart_freeze", "restart_every": 2}, None),
    "null_corrected": ({"kind": "ema", "rate": 0.2}, 0.7),
}
STEPS = 3
LR = 1e-3


def run_kinds(rank: int, world: int, folder: str) -> dict[str, list[tuple[float, float]]]:
    """(loss, gradient norm) of each step by kind, all in one process."""
    from megatron.core import parallel_state

    found = {}
    for name, (config, beta) in KINDS.items():
        actor = make_actor(
            folder,
            teacher=build(TeacherConfig, config),
            objective=small_objective(null_beta=beta),
            optimizer=OptimizerConfig(lr=LR),
        )
        steps = [actor.step(actor.share_of(made_up_samples(0))) for _ in range(STEPS)]
        found[name] = [(one["train/loss"], one["train/grad_norm"]) for one in steps]
        parallel_state.destroy_model_parallel()
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model", tied=True))


@pytest.fixture(scope="module")
def ours(model: str) -> dict[str, list[tuple[float, float]]]:
    return run_ranks(run_kinds, 1, model)[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_norm_follow_the_dense_reference(
    kind: str, model: str, ours: dict[str, list[tuple[float, float]]]
) -> None:
    teacher, beta = KINDS[kind]
    reference = Reference(model, Plan(rates=[LR], teacher=teacher, null_beta=beta))
    for step, got in enumerate(ours[kind]):
        (expected,) = reference.batch(made_up_samples(0))
        assert got == pytest.approx(expected, rel=2e-4), f"step {step}"
