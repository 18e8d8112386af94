"""Ranks of a gloo world that stay alive for a test session and run case after case: TP 2 and 4.

    with Ranks(2) as ranks:
        results = ranks.run(work, cases)  # by rank: what work(group, rank, world, cases) returned

Joining a world costs a second, a case milliseconds; so one world serves all tests.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any

from tests.distributed import rank_processes

TIMEOUT_S = 120.0


class Ranks:
    """`world` processes joined in one group, each answering requests on its own pipe."""

    def __init__(self, world: int) -> None:
        context = rank_processes()
        self._folder = tempfile.TemporaryDirectory(prefix="tp-")
        self._pipes = []
        self._processes = []
        for rank in range(world):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, world, self._folder.name, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """``function(group, rank, world, *args)`` on every rank; the results, by rank.

        `function` lives at module level.
        """
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((function, args)))
        results = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(TIMEOUT_S):
                raise TimeoutError(f"rank {rank} did not answer within {TIMEOUT_S} s")
            results.append(pickle.loads(pipe.recv_bytes()))
        failures = [f"rank {r}:\n{x[1]}" for r, x in enumerate(results) if not x[0]]
        assert not failures, "\n".join(failures)
        return [value for _, value in results]

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
            process.kill()
            process.join()
        self._folder.cleanup()


def _serve(rank: int, world: int, folder: str, pipe: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    while True:
        try:
            function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            break
        try:
            answer = (True, function(dist.group.WORLD, rank, world, *args))
        except Exception:
            answer = (False, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))  # by value: torch would send file handles
    os._exit(0)  # nothing to save; leaving the group in order takes seconds
