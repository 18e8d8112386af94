"""The helper of multi-process tests: results by rank, tracebacks, bounded time."""

from __future__ import annotations

import os
import time

import pytest
import torch

from tests.distributed import RankFailed, run_ranks

pytestmark = pytest.mark.slow


def test_results_come_by_rank_and_ranks_can_talk() -> None:
    assert run_ranks(total_plus_rank, 2, 10.0) == [(21.0, 1), (22.0, 1)]


def test_the_failed_rank_is_named_with_its_traceback() -> None:
    with pytest.raises(RankFailed, match=r"(?s)rank 1 of 2:.*in fails_on_rank_1.*only this one"):
        run_ranks(fails_on_rank_1, 2)


def test_a_rank_that_dies_or_hangs_is_named_in_bounded_time() -> None:
    with pytest.raises(RankFailed, match=r"rank 0 of 1:\ndied with exit code 7"):
        run_ranks(dies, 1)
    with pytest.raises(RankFailed, match=r"rank 0 of 1:\nstill running after 6 s"):
        run_ranks(hangs, 1, timeout_s=6)


def total_plus_rank(rank: int, world_size: int, value: float) -> tuple[float, int]:
    shared = torch.tensor([value + rank])
    torch.distributed.all_reduce(shared)
    return shared.item() + rank, torch.get_num_threads()


def fails_on_rank_1(rank: int, world_size: int) -> None:
    if rank == 1:
        raise RuntimeError("only this one")
    torch.distributed.barrier()


def dies(rank: int, world_size: int) -> None:
    os._exit(7)


def hangs(rank: int, world_size: int) -> None:
    time.sleep(3600)
