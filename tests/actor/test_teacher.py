"""Teacher's weight sets: moved by kind, swapped in and out without a trace, sharded over ranks."""

from __future__ import annotations

from typing import Any

import pytest

from sdpo_megatron.actor.batches.packing import Role
from sdpo_megatron.actor.config import (
    EmaTeacher,
    FrozenTeacher,
    LiveTeacher,
    RestartFreezeTeacher,
    TeacherConfig,
    TrustRegionTeacher,
)
from sdpo_megatron.actor.teacher import Pass, teacher_passes
from sdpo_megatron.errors import ConfigError
from tests.actor.worlds import made_up_samples, make_actor, tiny_model
from tests.distributed import run_ranks

RATE = 0.1


@pytest.mark.parametrize(
    ("config", "roles", "expected"),
    [
        (LiveTeacher(), ["teacher"], [("live", "teacher")]),
        (EmaTeacher(), ["teacher"], [("ema", "teacher")]),
        (FrozenTeacher(), ["teacher"], [("initial", "teacher")]),
        (RestartFreezeTeacher(restart_every=3), ["null"], [("restarted", "null")]),
        (TrustRegionTeacher(), ["teacher"], [("initial", "teacher"), ("live", "teacher")]),
        (EmaTeacher(), ["teacher", "null"], [("ema", "teacher"), ("ema", "null")]),
    ],
)
def test_passes_of_each_kind(
    config: TeacherConfig, roles: list[Role], expected: list[Pass]
) -> None:
    assert list(teacher_passes(config, *roles)) == expected


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (EmaTeacher, {"rate": 1.5}, "rate=1.5: must be at most 1"),
        (RestartFreezeTeacher, {}, "restart_every: must be given"),
        (EmaTeacher, {"restart_every": 4}, "restart_every: there is no such setting"),
        (EmaTeacher, {"cadence": "daily"}, "per_optimizer_step, per_rollout_batch"),
    ],
)
def test_impossible_teachers_cannot_be_written(
    kind: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**fields)


def _gathered(actor: Any, weights: Any) -> list[Any]:
    """The whole parameters of this model-parallel rank, float64."""
    with actor.weights.swapped(weights):
        return [p.detach().double().clone() for c in actor.chunks for p in c.parameters()]


def follow(
    rank: int, world: int, folder: str, layout: dict[str, int], steps: int
) -> dict[str, Any]:
    """EMA against a naive float64 one of the gathered weights; a swap and back; the set's size."""
    import torch

    from sdpo_megatron.actor.model.config import ParallelConfig

    actor = make_actor(folder, parallel=ParallelConfig(**layout), teacher=EmaTeacher(rate=RATE))
    naive = [p.detach().double().clone() for c in actor.chunks for p in c.parameters()]
    for step in range(steps):
        actor.step(actor.share_of(made_up_samples(step, questions=1)))
        live = [p.detach().double() for c in actor.chunks for p in c.parameters()]
        naive = [(1 - RATE) * old + RATE * new for old, new in zip(naive, live, strict=True)]
    ema = _gathered(actor, actor.teacher.sets["ema"])
    error = max(float((a - b).abs().max()) for a, b in zip(ema, naive, strict=True))
    moved = max(float((a - b.double()).abs().max()) for a, b in zip(ema, live, strict=True))

    before = [p.detach().clone() for c in actor.chunks for p in c.parameters()]
    with actor.weights.swapped(actor.teacher.sets["ema"]):
        pass
    after = [p.detach() for c in actor.chunks for p in c.parameters()]
    return {
        "error": error,
        "moved": moved,
        "restored": all(torch.equal(a, b) for a, b in zip(before, after, strict=True)),
        "bytes": sum(t.numel() * t.element_size() for t in actor.teacher.sets["ema"]),
        "parameters": sum(p.numel() for c in actor.chunks for p in c.parameters()),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "layout"),
    [(1, {}), (2, {"tensor": 2}), (2, {"pipeline": 2}), (2, {})],
    ids=["one", "TP2", "PP2", "DP2"],
)
def test_ema_of_twenty_steps_swap_and_size(
    tmp_path_factory: pytest.TempPathFactory, world: int, layout: dict[str, int]
) -> None:
    model = tiny_model(tmp_path_factory.mktemp("tiny") / "model", tied=False)
    data_parallel = world if not layout else 1
    found = run_ranks(follow, world, str(model), layout, 20)
    for one in found:
        assert one["error"] < 1e-6
        assert one["moved"] > 1e-3  # the student has left it behind
        assert one["restored"]
    # 4 bytes a parameter, over the data-parallel ranks.
    assert (
        sum(one["bytes"] for one in found)
        == sum(4 * one["parameters"] for one in found) // data_parallel
    )


def bf16_swap(rank: int, world: int, folder: str) -> bool:
    import torch

    from sdpo_megatron.actor.model.config import PrecisionConfig

    actor = make_actor(folder, precision=PrecisionConfig(dtype="bf16"))
    actor.step(actor.share_of(made_up_samples(0)))
    before = [p.detach().clone() for c in actor.chunks for p in c.parameters()]
    with actor.weights.swapped(actor.teacher.sets["ema"]):
        pass
    after = [p.detach() for c in actor.chunks for p in c.parameters()]
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.slow
def test_live_weights_survive_a_swap_in_bf16(tmp_path: Any) -> None:
    assert run_ranks(bf16_swap, 1, str(tiny_model(tmp_path / "model")))[0]
