"""The learning rate of every rollout batch, and what weight decay acts on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdpo_megatron.actor.config import BatchConfig, OptimizerConfig
from sdpo_megatron.actor.optimizer import learning_rate
from tests.actor.worlds import made_up_samples, make_actor, small_objective, tiny_model
from tests.distributed import run_ranks

# Rollout batches 0, 1, 2, ...; the peak is 8, warm-up 4 batches where there is one.
SCHEDULES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "constant": ({}, [8, 8, 8]),
    "constant after a warm-up": ({"warmup_steps": 4}, [0, 2, 4, 6, 8, 8, 8]),
    "a warm-up of one batch": ({"warmup_steps": 1}, [0, 8, 8]),
    "linear": ({"decay": "linear", "decay_steps": 4}, [8, 6, 4, 2, 0, 0, 0]),
    "linear after a warm-up": (
        {"decay": "linear", "warmup_steps": 4, "decay_steps": 8},
        [0, 2, 4, 6, 8, 6, 4, 2, 0, 0],
    ),
    "linear to a floor": (
        {"decay": "linear", "warmup_steps": 2, "decay_steps": 4, "min_lr": 2.0},
        [0, 4, 8, 5, 2, 2],
    ),
    # 8 (1 + cos(pi k / 3)) / 2 for k = 0, 1, 2, 3
    "cosine": ({"decay": "cosine", "decay_steps": 3}, [8, 6, 2, 0, 0]),
    "cosine after a warm-up": (
        {"decay": "cosine", "warmup_steps": 4, "decay_steps": 7},
        [0, 2, 4, 6, 8, 6, 2, 0, 0],
    ),
    "cosine to a floor": (
        {"decay": "cosine", "warmup_steps": 2, "decay_steps": 4, "min_lr": 2.0},
        [0, 4, 8, 5, 2, 2],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_of_every_batch(name: str) -> None:
    """A warm-up begins at 0, as the authors' does: batch n of ten, from 0, has n tenths."""
    config, expected = SCHEDULES[name]
    schedule = OptimizerConfig(**{"lr": 8.0, **config})
    got = [learning_rate(schedule, batch) for batch in range(len(expected))]
    assert got == pytest.approx(expected, abs=1e-12)


def rates_of_two_batches(_rank: int, _world: int, folder: str) -> list[list[float]]:
    """The learning rate of every optimiser step, by rollout batch."""
    actor = make_actor(
        folder,
        batch=BatchConfig(questions=4, questions_per_step=1, micro_batch_tokens=80),
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=2),
    )
    found: list[list[float]] = []
    step = actor.optimizer.step

    def watched() -> object:
        found[-1] += [group["lr"] for group in actor.optimizer.param_groups[:1]]
        return step()

    actor.optimizer.step = watched
    for batch in range(3):
        found.append([])
        actor.step(actor.share_of(made_up_samples(batch, questions=4)))
    return found


@pytest.mark.slow
def test_all_steps_of_a_batch_have_one_rate(tmp_path: Path) -> None:
    folder = str(tiny_model(tmp_path / "model"))
    assert run_ranks(rates_of_two_batches, 1, folder)[0] == [[0.0] * 4, [5e-4] * 4, [1e-3] * 4]


def decayed(_rank: int, _world: int, folder: str) -> dict[str, float]:
    """By kind of parameter, the largest departure of (step with decay) - (step without) from
    -lr x decay x weight.
    """
    rate, decay, after = 1e-2, 0.5, []
    for weight_decay in (0.0, decay):
        optimizer = OptimizerConfig(lr=rate, weight_decay=weight_decay)
        actor = make_actor(folder, optimizer=optimizer, objective=small_objective())
        before = [shard.master.clone() for shard in actor.weights.shards]
        actor.step(actor.share_of(made_up_samples(0)))
        after.append([shard.master.clone() for shard in actor.weights.shards])
        dims = [shard.param.dim() for shard in actor.weights.shards]
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()
    off = {"norms": 0.0, "matrices": 0.0}
    for start, without, with_decay, dim in zip(before, *after, dims, strict=True):
        gap = (with_decay - without) + rate * decay * start
        kind = "norms" if dim == 1 else "matrices"
        off[kind] = max(off[kind], float(gap.abs().max() / start.abs().max()))
        assert torch.isfinite(gap).all()
    return off


@pytest.mark.slow
def test_decay_acts_on_every_parameter_norms_included(tmp_path: Path) -> None:
    """As torch's AdamW over all parameters does, which is what the authors run."""
    found = run_ranks(decayed, 1, str(tiny_model(tmp_path / "model")))[0]
    assert found["norms"] < 1e-6
    assert found["matrices"] < 1e-6
