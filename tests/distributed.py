"""Run a function on N ranks of a gloo world, each a process of its own.

def work(rank, world_size, path): ...          # a module-level function
results = run_ranks(work, 2, path)             # [result of rank 0, result of rank 1]
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdpo_megatron.process_tree import die_with_parent


class RankFailed(AssertionError):
    """One or more ranks raised, died or did not end in time; the message holds their tracebacks."""


def rank_processes() -> Any:
    """A multiprocessing context whose processes have torch and Megatron imported when they start.

    Each is a fork of a server that has done nothing else: milliseconds where a spawn takes seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.started_runtime"])
    return context


def run_ranks(
    fn: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 240.0
) -> list[Any]:
    """Call ``fn(rank, world_size, *args)`` on every rank; returns what each returned, by rank.

    In each rank: one torch thread, the CPU runtime started, torch.distributed ready over gloo, no
    model-parallel layout yet. `fn` must be importable (module level) and its arguments and result
    picklable. No rank outlives the call.

    Raises:
        RankFailed: With the traceback of every rank that failed; ranks that only waited for it are
            not blamed.
    """
    context = rank_processes()
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        processes = [
            context.Process(
                target=_rank_main,
                args=(fn, rank, world_size, args, folder, timeout_s, dict(os.environ)),
            )
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        try:
            late = _wait(processes, folder, time.monotonic() + timeout_s)
        finally:
            for process in processes:
                process.kill()
                process.join()
        failures = {
            rank: text for rank in range(world_size) if (text := _read_failure(folder, rank))
        }
        told = bool(failures)
        for rank, process in enumerate(processes):
            if rank in late and not told:
                failures[rank] = f"still running after {timeout_s} s"
            elif rank not in late | failures.keys() and not _result_file(folder, rank).exists():
                failures[rank] = f"died with exit code {process.exitcode}"
        if failures:
            raise RankFailed(
                "\n".join(
                    f"--- rank {rank} of {world_size}:\n{text}" for rank, text in failures.items()
                )
            )
        return [pickle.loads(_result_file(folder, rank).read_bytes()) for rank in range(world_size)]


def _wait(processes: list[Any], folder: str, deadline: float) -> set[int]:
    """Until all have ended, one has failed, or the deadline; returns the ranks still running."""
    while time.monotonic() < deadline:
        running = {rank for rank, process in enumerate(processes) if process.is_alive()}
        if not running:
            return set()
        ended = set(range(len(processes))) - running
        if any(_read_failure(folder, rank) or processes[rank].exitcode for rank in ended):
            time.sleep(0.5)  # its peers may be failing too: all tracebacks are wanted
            return running
        processes[min(running)].join(0.05)
    return {rank for rank, process in enumerate(processes) if process.is_alive()}


def _rank_main(
    fn: Callable[..., Any],
    rank: int,
    world_size: int,
    args: tuple[Any, ...],
    folder: str,
    timeout_s: float,
    environment: dict[str, str],
) -> None:
    die_with_parent()  # a pytest that is killed leaves no ranks waiting for one another
    place = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    os.environ.clear()  # the server's is as old as the server
    os.environ.update(environment | place | {"OMP_NUM_THREADS": "1"})
    try:
        from datetime import timedelta

        import torch

        from sdpo_megatron.actor.runtime import start_runtime

        torch.set_num_threads(1)
        start_runtime("cpu")
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
        result = fn(rank, world_size, *args)
        torch.distributed.barrier()
        _result_file(folder, rank).write_bytes(pickle.dumps(result))
        torch.distributed.destroy_process_group()
    except BaseException:
        (Path(folder) / f"failure-{rank}").write_text(traceback.format_exc())
        sys.exit(1)


def _result_file(folder: str, rank: int) -> Path:
    return Path(folder) / f"result-{rank}"


def _read_failure(folder: str, rank: int) -> str:
    file = Path(folder) / f"failure-{rank}"
    return file.read_text() if file.exists() else ""
