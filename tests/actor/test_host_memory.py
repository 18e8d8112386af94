"""What leaves the device between passes: hidden states as micro-batches end, weight sets for good.

On a CPU host and device are one; what a copy between them must do is asked of every `to`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.actor.worlds import made_up_samples, make_actor, tiny_model
from tests.distributed import run_ranks


def watched(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Two pipeline stages."""
    import torch

    from sdpo_megatron.actor import weight_sets
    from sdpo_megatron.actor.batches.minibatch import Minibatch
    from sdpo_megatron.actor.config import EmaTeacher
    from sdpo_megatron.actor.kept_rows import KeptRows
    from sdpo_megatron.actor.model.config import ParallelConfig
    from sdpo_megatron.actor.weight_sets import ShardedWeights

    actor = make_actor(
        folder,
        parallel=ParallelConfig(pipeline=2),
        teacher=EmaTeacher(rate=0.1, keep_weights_on_host=True, keep_hidden_on_host=True),
    )
    (share,) = actor.share_of(made_up_samples(0))
    events: list[str] = []
    actor.chunks[0].register_forward_hook(lambda *_: events.append("forward"))
    batches = Minibatch(actor.config, actor.runtime, share).packed({"teacher"})
    actor.teacher._keep = lambda hidden: (
        events.append("keep") or KeptRows.of(hidden + 1.0, None, on_host=True)
    )
    targets = actor.teacher.score(batches)
    kept = [target.teacher.heads[0].hidden for target in targets]
    plain = actor.pipeline.hidden_states(batches["teacher"])  # the teacher has the live weights yet
    del actor.teacher._keep

    weight_sets._PIECE = 100
    hosted = ShardedWeights(actor.chunks, actor.optimizer, sets_on_host=True)
    there, here = hosted.snapshot(), actor.weights.snapshot()
    there[0][:3] = here[0][:3] = 7.0
    actor.weights.move(here, 0.25)
    to = torch.Tensor.to
    torch.Tensor.to = lambda self, *args, **named: to(self, *args, **named).clone()  # type: ignore
    hosted.move(there, 0.25)
    distance = hosted.distance_squared(there)
    torch.Tensor.to = to  # type: ignore[method-assign]
    return {
        "events": events[: 2 * len(batches["teacher"])],
        "micro_batches": len(batches["teacher"]),
        "kept": [torch.equal(a, b + 1.0) for a, b in zip(kept, plain, strict=True)],
        "moved": all(torch.equal(a, b) for a, b in zip(there, here, strict=True)),
        "distance": torch.equal(distance, actor.weights.distance_squared(here)),
        "own": all(
            a.data_ptr() != s.master.data_ptr() for a, s in zip(there, hosted.shards, strict=True)
        ),
        "same": hosted.kept(there)[0] is there[0],
        "stepped": actor.step((share,))["teacher/ema_distance"] > 0,
    }


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tiny_model(tmp_path_factory.mktemp("host"))
    return run_ranks(watched, 2, str(folder))


@pytest.mark.slow
def test_hidden_states_leave_as_soon_as_a_micro_batch_has_them(
    answer: list[dict[str, Any]],
) -> None:
    """Kept until the pass ends, all of them would be on the device at once."""
    last = answer[-1]
    assert last["micro_batches"] > 1
    assert last["events"] == ["forward", "keep"] * last["micro_batches"]
    assert last["kept"] == [True] * last["micro_batches"]
    assert "keep" not in answer[0]["events"]


@pytest.mark.slow
def test_sets_on_the_host_move_as_those_on_the_device_do(answer: list[dict[str, Any]]) -> None:
    for rank in answer:
        assert rank["moved"]
        assert rank["distance"]
        assert rank["own"]
        assert rank["same"]
        assert rank["stepped"]
