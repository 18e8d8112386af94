"""A value that is not finite ends the step on every rank, names the place, and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import NumericsError
from tests.actor.worlds import made_up_samples, make_actor, tiny_model
from tests.distributed import run_ranks

pytestmark = pytest.mark.slow


def poisoned_step(rank: int, world: int, folder: str, layout: dict[str, int]) -> dict[str, Any]:
    """A step, one whose head has a NaN in its last row, and one after the row was mended."""
    import torch

    from sdpo_megatron.actor.model.config import ParallelConfig
    from sdpo_megatron.actor.teacher import head_weight

    actor = make_actor(folder, parallel=ParallelConfig(**layout))
    actor.step(actor.share_of(made_up_samples(0)))
    head = head_weight(actor.chunks)
    good = None if head is None else head.detach()[5].clone()
    if head is not None:
        with torch.no_grad():
            head[5] = float("nan")
    before = [p.detach().clone() for c in actor.chunks for p in c.parameters()]
    try:
        actor.step(actor.share_of(made_up_samples(1)))
        message = ""
    except NumericsError as error:
        message = str(error)
    after = [p.detach() for c in actor.chunks for p in c.parameters()]
    same = all(torch.equal(a, b) for a, b in zip(after, before, strict=True) if a.isfinite().all())
    if head is not None:
        with torch.no_grad():
            head[5] = good
    return {
        "message": message,
        "same": same,
        "next": actor.step(actor.share_of(made_up_samples(1)))["train/loss"],
    }


@pytest.mark.parametrize(
    ("world", "layout", "tied"),
    [(1, {}, True), (1, {}, False), (2, {"pipeline": 2}, True)],
    ids=["tied", "untied", "PP2, tied"],
)
def test_every_rank_hears_of_it_and_the_next_step_is_good(
    world: int, layout: dict[str, int], tied: bool, tmp_path: Path
) -> None:
    """Gradients are reduced as they come, also those of a head that the fault kept from the loss;
    a tied head on two stages is two parameters, of which the last one is poisoned.
    """
    model = str(tiny_model(tmp_path / "model", tied=tied))
    for found in run_ranks(poisoned_step, world, model, layout):
        assert "optimiser step 2 was not taken" in found["message"]
        assert found["same"]
        assert found["next"] == found["next"] != 0
