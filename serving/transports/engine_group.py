"""The trainer's half of a process group that it shares with engines.

SGLang 0.5.23 joins such a group beside its own world (`init_custom_process_group`: a TCP store, a
prefix of the group's name, torch's `_new_process_group_helper`); both halves must make it in the
same way, so this follows it. The sender is rank 0 and keeps the store.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from serving.client import EngineClient

_numbers = itertools.count()


class EngineGroup:
    """Attributes:
    name: Unique on this machine; what engines know the group by.
    clients: Its engines, whose ranks come one after the other after the sender's.
    """

    def __init__(
        self, clients: Sequence[EngineClient], address: str, backend: str, timeout_s: float
    ):
        """Listens at once; `join` then waits for the engines. `address` is this machine's."""
        self.clients = tuple(clients)
        self.address, self.backend = address, backend
        self.name = f"sdpo-{socket.gethostname()}-{os.getpid()}-{next(_numbers)}"
        self.size = 1 + sum(client.config.tp for client in clients)
        self._timeout = timedelta(seconds=timeout_s)
        self._store = dist.TCPStore(
            "0.0.0.0", 0, self.size, is_master=True, wait_for_workers=False, timeout=self._timeout
        )
        self.port = self._store.port
        self._group: dist.ProcessGroup | None = None
        # One thread: a broadcast that hangs holds up this group's engines alone.
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=self.name)

    def join(self) -> None:
        """Block until the engines are there, at most the timeout.

        Raises:
            RuntimeError: They did not come.
        """
        from torch.distributed import distributed_c10d as c10d

        group, _ = c10d._new_process_group_helper(
            self.size,
            0,
            [],
            dist.Backend(self.backend),
            dist.PrefixStore(self.name, self._store),
            group_name=self.name,
            timeout=self._timeout,
        )
        c10d._world.pg_group_ranks[group] = {rank: rank for rank in range(self.size)}
        self._group = group

    def broadcast(self, flat: torch.Tensor) -> None:
        """Block until all engines of the group have `flat`, at most the timeout.

        Raises:
            RuntimeError: One did not take it, or its connection broke.
        """
        assert self._group is not None, "join comes first"
        dist.broadcast(flat, group_src=0, group=self._group)
        if flat.is_cuda:
            torch.cuda.current_stream().synchronize()

    def abandon(self) -> None:
        """Break the connections: an engine that waits for the rest is told so at once."""
        group, self._group = self._group, None
        if group is not None:
            with contextlib.suppress(RuntimeError):
                group.abort()
            with contextlib.suppress(RuntimeError, AssertionError, ValueError):
                dist.destroy_process_group(group)
        self.thread.shutdown(wait=False, cancel_futures=True)


def own_address(engine_url: str) -> str:
    """The address that this machine uses towards an engine."""
    parts = urlsplit(engine_url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))  # sends nothing
        return str(probe.getsockname()[0])
