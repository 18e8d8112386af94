"""The distance between weight sets, a piece at a time; what ranks tell each other, over gloo."""

from __future__ import annotations

from typing import Any

import pytest

from tests.actor.worlds import make_actor, tiny_model
from tests.distributed import run_ranks


def measured(rank: int, world: int, folder: str) -> dict[str, Any]:
    import torch

    from sdpo_megatron.actor import agree, weight_sets

    actor = make_actor(folder)
    generator = torch.Generator().manual_seed(0)
    other = [w + torch.randn(w.shape, generator=generator) for w in actor.weights.snapshot()]
    double, copied = torch.Tensor.double, []
    torch.Tensor.double = lambda self: copied.append(self.numel()) or double(self)  # type: ignore
    found, largest = {}, {}
    for piece in (1 << 24, 100):
        weight_sets._PIECE = piece
        copied.clear()
        found[piece] = actor.weights.distance_squared(other).tolist()
        largest[piece] = max(copied)
    torch.Tensor.double = double  # type: ignore[method-assign]
    live = [shard.master.double() for shard in actor.weights.shards]
    exact = sum(float((a - b.double()).square().sum()) for a, b in zip(live, other, strict=True))

    devices = []
    broadcast = torch.distributed.broadcast_object_list
    torch.distributed.broadcast_object_list = lambda *args, **named: (
        devices.append(named["device"].type),
        broadcast(*args, **named),
    )
    assert agree.from_rank_0({"a": 1}) == {"a": 1}
    assert agree.sum_over_data_parallel({"x": torch.tensor(2.0)}) == {"x": 2.0}
    whole = max(shard.master.numel() for shard in actor.weights.shards)
    return {"found": found, "exact": exact, "copied": largest, "whole": whole, "on": devices}


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tiny_model(tmp_path_factory.mktemp("sets"))
    return run_ranks(measured, 1, str(folder))[0]  # type: ignore[no-any-return]


def test_the_distance_is_exact_and_copies_a_piece_at_a_time(answer: dict[str, Any]) -> None:
    """The float64 copies of a large embedding at once would be 10 GB, at every step."""
    for distance, norm in answer["found"].values():
        assert distance == pytest.approx(answer["exact"], rel=1e-6)
        assert norm > 0
    assert answer["whole"] > 100
    assert answer["copied"] == {1 << 24: answer["whole"], 100: 100}


def test_objects_travel_over_the_cpu(answer: dict[str, Any]) -> None:
    """Ranks wait in them while attempts are sampled: an NCCL broadcast would spin on the GPU."""
    assert answer["on"] == ["cpu", "cpu"]
