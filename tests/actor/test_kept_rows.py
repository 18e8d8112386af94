"""Each rank of a sequence keeps a part of the teacher's hidden states; the losses stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.actor.worlds import made_up_samples, make_actor, tiny_model
from tests.distributed import run_ranks

pytestmark = pytest.mark.slow


def keep_and_bring_together(rank: int, world: int) -> list[tuple[int, bool]]:
    """(rows kept here, whether the whole is as before) for several numbers of rows."""
    import torch

    from sdpo_megatron.actor.kept_rows import KeptRows

    found = []
    for rows in (0, 1, 2, 6, 7):
        hidden = torch.arange(rows * 5, dtype=torch.float32).view(rows, 5)
        kept = KeptRows.of(hidden, torch.distributed.group.WORLD, on_host=False)
        held = kept.mine.untyped_storage().nbytes() // (5 * 4)
        found.append((held, torch.equal(kept.whole(), hidden)))
    return found


def train_keeping(
    rank: int, world: int, folder: str, layout: dict[str, int]
) -> dict[str, tuple[list[float], int]]:
    """By way of keeping, whole or in parts: (losses of three steps, most rows kept here)."""
    from megatron.core import parallel_state

    from sdpo_megatron.actor.config import TrustRegionTeacher
    from sdpo_megatron.actor.model.config import ParallelConfig

    found = {}
    for way in ("parts", "whole"):
        actor = make_actor(
            folder, parallel=ParallelConfig(**layout), teacher=TrustRegionTeacher(rate=0.3)
        )
        if way == "whole":
            actor.teacher._sharing = None
        kept: list[int] = []
        keep = actor.teacher._keep
        actor.teacher._keep = lambda hidden, keep=keep, kept=kept: _counted(keep(hidden), kept)
        losses = [
            actor.step(actor.share_of(made_up_samples(seed)))["train/loss"] for seed in range(3)
        ]
        found[way] = (losses, sum(kept))
        parallel_state.destroy_model_parallel()
    return found


def _counted(rows: Any, kept: list[int]) -> Any:
    kept.append(rows.mine.shape[0])
    return rows


def test_parts_come_together_whatever_their_number() -> None:
    ranks = run_ranks(keep_and_bring_together, 3)
    assert all(same for rank in ranks for _, same in rank)
    held = [[rows for rows, _ in rank] for rank in ranks]
    assert held == [[0, 1, 1, 2, 3], [0, 0, 1, 2, 3], [0, 0, 0, 2, 1]]


def test_half_the_rows_on_each_of_two_ranks_and_the_same_losses(tmp_path: Path) -> None:
    model = str(tiny_model(tmp_path / "model"))
    ranks = run_ranks(train_keeping, 2, model, {"tensor": 2})
    rows = [rank["parts"][1] for rank in ranks]
    for rank in ranks:
        assert rank["parts"][0] == rank["whole"][0]
        assert rank["whole"][1] == sum(rows)
    assert rows[0] == pytest.approx(rows[1], rel=0.2)
