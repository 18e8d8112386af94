"""What ranks tell each other about a step: who failed, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from sdpo_megatron.actor.runtime import current_runtime

T = TypeVar("T")


def from_rank_0(value: T) -> T:
    """The object that rank 0 holds, on every rank."""
    return from_rank(0, value)  # type: ignore[no-any-return]


def from_rank(rank: int, value: Any) -> Any:
    """The object that `rank` holds, on every rank."""
    box: list[Any] = [value]
    # Over gloo also on GPUs: ranks wait here while attempts are sampled, and an NCCL broadcast
    # would keep their GPUs and a core each busy with waiting.
    torch.distributed.broadcast_object_list(box, src=rank, device=torch.device("cpu"))
    return box[0]


def leads_model() -> bool:
    """Whether this is the first rank of a copy of the model: of its TP x PP x CP ranks."""
    from megatron.core import parallel_state

    return (
        parallel_state.get_model_parallel_group().rank() == 0
        and parallel_state.get_context_parallel_rank() == 0
    )


def data_parallel_rank() -> int:
    """Which copy of the model this rank belongs to."""
    from megatron.core import parallel_state

    return int(parallel_state.get_data_parallel_rank())


def within_model(data: bytes) -> memoryview:
    """What the leader of this copy of the model gave, on all of its ranks; what the others give is
    ignored. Collective over them, as tensors over gloo, in two hops along groups that exist.
    """
    from megatron.core import parallel_state

    model = parallel_state.get_model_parallel_group()  # TP x PP of one context-parallel rank
    held = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else _no_bytes(0)
    if model.rank() == 0:
        held = from_first(held, parallel_state.get_context_parallel_group())
    return memoryview(from_first(held, model).numpy())


def from_first(held: torch.Tensor, group: torch.distributed.ProcessGroup) -> torch.Tensor:
    """The bytes that rank 0 of the group holds, on all of its ranks."""
    if group.size() == 1:
        return held
    length = torch.tensor([len(held)], dtype=torch.int64, device="cpu")
    torch.distributed.broadcast(length, group=group, group_src=0)
    if group.rank():
        held = _no_bytes(int(length))
    torch.distributed.broadcast(held, group=group, group_src=0)
    return held


def _no_bytes(length: int) -> torch.Tensor:
    return torch.empty(length, dtype=torch.uint8, device="cpu")


def any_rank(flag: bool) -> bool:
    """Whether `flag` is set on any rank."""
    count = torch.tensor([float(flag)], device=current_runtime().device)
    torch.distributed.all_reduce(count)
    return bool(count.item())


def first_problem(problem: str | None) -> str | None:
    """The problem of the lowest rank that has one, on every rank; None when none has. One small
    collective when all is well.
    """
    if not any_rank(problem is not None):
        return None
    problems: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(problems, problem)
    return next(text for text in problems if text)


def sum_over_data_parallel(stats: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Sums of per-rank sums, known on the last pipeline stage, as floats on every rank.

    The keys must be the same on all data-parallel ranks: they come from the objective, not from the
    data.
    """
    from megatron.core import parallel_state

    totals: dict[str, float] = {}
    if parallel_state.is_pipeline_last_stage():
        keys = sorted(stats)
        values = torch.stack([stats[key].detach().double().reshape(()) for key in keys])
        torch.distributed.all_reduce(
            values, group=parallel_state.get_data_parallel_group(with_context_parallel=True)
        )
        totals = dict(zip(keys, values.tolist(), strict=True))
    box: list[Any] = [totals]
    torch.distributed.broadcast_object_list(
        box,
        src=parallel_state.get_pipeline_model_parallel_last_rank(),
        group=parallel_state.get_pipeline_model_parallel_group(),
        device=torch.device("cpu"),
    )
    return dict(box[0])
