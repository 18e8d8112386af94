"""What attention is told about packed sequences, and when hidden states are taken away."""

from __future__ import annotations

from typing import Any

import torch

from sdpo_megatron.actor.batches.context_parallel import shard
from sdpo_megatron.actor.batches.packing import pack
from tests.actor.worlds import made_up_samples, make_actor, tiny_model
from tests.distributed import run_ranks

CPU = torch.device("cpu")


def told(rank: int, world: int) -> tuple[Any, Any, list[int]]:
    from sdpo_megatron.actor.model.pipeline import packed_params

    whole = pack(made_up_samples(0), "student", 240, CPU, sequence_multiple=4)
    plain, cut = packed_params(whole), packed_params(shard(whole, 1, 2))
    assert plain.cu_seqlens_q.tolist() == cut.cu_seqlens_q.tolist() == whole.cu_seqlens.tolist()
    return plain.cu_seqlens_q_padded, cut.cu_seqlens_kv_padded, whole.cu_seqlens.tolist()


def test_padded_boundaries_are_told_under_context_parallelism() -> None:
    """Transformer Engine asserts them there, and takes another path where they are given."""
    ((plain, cut, boundaries),) = run_ranks(told, 1)
    assert plain is None
    assert cut.tolist() == boundaries


def kept(rank: int, world: int, folder: str) -> list[tuple[str, int]]:
    """The order in which micro-batches are computed and taken away."""
    from sdpo_megatron.actor.batches.minibatch import Minibatch

    actor = make_actor(folder)
    batches = Minibatch(actor.config, actor.runtime, actor.share_of(made_up_samples(0))[0]).packed(
        {"student"}
    )
    events: list[tuple[str, int]] = []
    hook = actor.chunks[0].register_forward_hook(
        lambda *_: events.append(("computed", len(events) // 2))
    )
    states = actor.pipeline.hidden_states(
        batches["student"],
        lambda hidden: events.append(("kept", len(events) // 2)) or hidden[:0],  # type: ignore[func-returns-value]
    )
    hook.remove()
    assert len(states) == len(batches["student"]) > 1
    assert all(state.shape[0] == 0 for state in states)  # what `keep` returned is all there is
    return events


def test_hidden_states_are_taken_away_micro_batch_by_micro_batch(tmp_path: Any) -> None:
    """Not after the pass: the most that is held would stay the whole batch's."""
    (events,) = run_ranks(kept, 1, str(tiny_model(tmp_path / "m")))
    pairs = [(what, i) for i in range(len(events) // 2) for what in ("computed", "kept")]
    assert events == pairs
