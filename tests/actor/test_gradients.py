"""One step's gradients, tensor by tensor, are the same however the attempts are laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.actor.worlds import made_up_samples, make_actor, tiny_model
from tests.distributed import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# name: (ranks, fields of ParallelConfig, attempts in a micro-batch or None for packing to the
# budget)
CASES: dict[str, tuple[int, dict[str, Any], int | None]] = {
    "packed": (1, {}, None),
    "padded, one attempt a micro-batch": (1, {}, 1),
    "two attempts a micro-batch": (1, {}, 2),
    "four attempts a micro-batch": (1, {}, 4),
    "DP2": (2, {}, None),
    "DP2, padded": (2, {}, 1),
    "TP2": (2, {"tensor": 2}, None),
    "TP2 and sequence parallel": (2, {"tensor": 2, "sequence_parallel": True}, None),
    "PP2": (2, {"pipeline": 2}, None),
    "PP2, padded": (2, {"pipeline": 2}, 1),
}
EXPERT_CASES: dict[str, tuple[int, dict[str, Any], int | None]] = {
    "EP1": (1, {}, None),
    "EP2": (2, {"expert": 2}, None),
}

Gradients = dict[str, torch.Tensor]


def gradients(folder: str, layout: dict[str, Any], attempts: int | None) -> tuple[float, Gradients]:
    """(loss, gradient by Hugging Face name, whole on rank 0 and empty elsewhere) of a first step.

    The gradients travel as a weight set that is swapped into the model: what gathers weights
    gathers them.
    """
    from megatron.core import parallel_state

    from sdpo_megatron.actor.batches import plan
    from sdpo_megatron.actor.model.config import ParallelConfig
    from sdpo_megatron.weights.gather import iter_hf_tensors

    def partition_by_number(
        tokens: np.ndarray, work: np.ndarray, *, num_ranks: int, token_budget: int
    ) -> list[list[list[int]]]:
        assert attempts is not None
        bins = [
            list(range(start, min(start + attempts, len(tokens))))
            for start in range(0, len(tokens), attempts)
        ]
        return [bins[rank::num_ranks] for rank in range(num_ranks)]

    actor = make_actor(folder, parallel=ParallelConfig(**layout))
    found: list[torch.Tensor] = []

    def keep_gradients() -> None:
        found.extend(shard.master.grad.detach().float().clone() for shard in actor.weights.shards)

    actor.optimizer.step = keep_gradients
    whole = plan.partition
    if attempts is not None:
        plan.partition = partition_by_number  # type: ignore[assignment]
    try:
        metrics = actor.step(actor.share_of(made_up_samples(0, questions=2)))
    finally:
        plan.partition = whole
    with actor.weights.swapped(found):
        tensors = {
            name: value.clone()
            for name, value in iter_hf_tensors(actor.chunks, actor.spec, torch.float32)
            if value is not None
        }
    parallel_state.destroy_model_parallel()
    return metrics["train/loss"], tensors


def all_gradients(
    rank: int, world: int, folders: dict[str, str], names: list[str]
) -> dict[str, tuple[float, Gradients]]:
    return {
        name: gradients(folders["moe" if name in EXPERT_CASES else "dense"], *case[1:])
        for name in names
        for case in [(CASES | EXPERT_CASES)[name]]
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, Gradients]]:
    """By case, the loss and the gradients."""
    root: Path = tmp_path_factory.mktemp("tiny")
    folders = {
        "dense": str(tiny_model(root / "dense", tied=False)),
        "moe": str(tiny_model(root / "moe", family="qwen3_moe", tied=False)),
    }
    cases = CASES | EXPERT_CASES
    results: dict[str, tuple[float, Gradients]] = {}
    for world in (1, 2):
        names = [name for name, case in cases.items() if case[0] == world]
        results |= run_ranks(all_gradients, world, folders, names)[0]
    return results


@pytest.mark.parametrize("name", [*list(CASES)[1:], "EP2"])
def test_loss_and_every_gradient_agree(
    name: str, found: dict[str, tuple[float, Gradients]]
) -> None:
    expected_loss, expected = found["EP1" if name in EXPERT_CASES else "packed"]
    loss, got = found[name]
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert got.keys() == expected.keys()
    for tensor, want in expected.items():
        scale = float(want.abs().max())
        assert scale > 0.0, tensor
        assert float((got[tensor] - want).abs().max()) <= 1e-5 * scale, tensor
