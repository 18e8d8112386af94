"""The launchers of several machines as one: who is there, who asked to stop, who failed.

Each machine runs `sdpo train` with the same settings and is told its place by the environment:

    NNODES, NODE_RANK (or an Indexed Job's JOB_COMPLETION_INDEX), MASTER_ADDR, MASTER_PORT

The ranks meet at MASTER_PORT, the launchers at a torch store one port above it, which the first
node serves. Through it the others wait for the run folder, a SIGTERM on one machine reaches the
ranks of all, and a machine that fails or falls silent is noticed within
`run.peer_timeout_s` instead of after the time-out of a collective.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sdpo_megatron.errors import ConfigError, PeerLost
from sdpo_megatron.exit_codes import FAILED, ORDERLY

if TYPE_CHECKING:
    from torch.distributed import TCPStore

START_S = 1800.0
"""Longest wait for the first machine to serve the store and to prepare the run folder, seconds."""

_BEAT_S = 2.0
_AGAIN_S = 0.5
_LEAVE_S = 20.0  # the first node serves the store until the others have left, at most so long
_DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Place:
    """Which of how many machines this is, and where the first one is found."""

    node: int = 0
    num_nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0  # 0: a free one, of a run on one machine

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """From the variables above; one machine where NNODES is not set.

        Raises:
            ConfigError: A variable is missing or is no number in range.
        """
        num_nodes = _number(environment, "NNODES", 1)
        if num_nodes == 1:
            return cls()
        name = "NODE_RANK" if "NODE_RANK" in environment else "JOB_COMPLETION_INDEX"
        node = _number(environment, name, -1)
        if not 0 <= node < num_nodes:
            raise ConfigError(
                f"NNODES={num_nodes}: NODE_RANK (or JOB_COMPLETION_INDEX) must be set, from 0 to "
                f"{num_nodes - 1}; got {environment.get(name)!r}"
            )
        if not environment.get("MASTER_ADDR"):
            raise ConfigError(
                f"NNODES={num_nodes}: set MASTER_ADDR to the name or address of the first machine"
            )
        port = _number(environment, "MASTER_PORT", _DEFAULT_PORT)
        return cls(node, num_nodes, environment["MASTER_ADDR"], port)

    def local_ranks(self, world: int) -> range:
        """The ranks that run here.

        Raises:
            ConfigError: The machines cannot have equally many.
        """
        if world % self.num_nodes:
            raise ConfigError(
                f"NNODES={self.num_nodes} does not divide the {world} ranks of parallel and "
                "run.data_parallel: every machine runs as many"
            )
        here = world // self.num_nodes
        return range(self.node * here, (self.node + 1) * here)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environment.get(name, default))
    except ValueError:
        raise ConfigError(f"{name}={environment[name]!r}: expected a whole number") from None


class Peers:
    """The other machines. A context manager; every method does nothing on a single machine.

    Args:
        silence_s: Seconds without a sign of life after which a machine counts as gone.
    """

    def __init__(self, place: Place, silence_s: float) -> None:
        self.place, self._silence_s = place, silence_s
        self._store: TCPStore | None = None
        self._done = threading.Event()
        self._watching: threading.Thread | None = None
        self._left = False
        self.lost = ""

    def __enter__(self) -> Peers:
        """Meet the others.

        Raises:
            PeerLost: The first machine does not answer within `START_S`.
        """
        if self.place.num_nodes > 1:
            end = time.monotonic() + START_S
            self._store = self._connected(end)
            while self._came_again(self._store):
                self._store = self._connected(end)
        return self

    def _connected(self, end: float) -> TCPStore:
        from torch.distributed import TCPStore

        left_s = max(1.0, end - time.monotonic())
        try:
            return TCPStore(
                self.place.address,
                self.place.port + 1,
                is_master=self.place.node == 0,
                wait_for_workers=False,
                timeout=timedelta(seconds=left_s),
            )
        except RuntimeError as error:  # torch's errors of stores derive from it
            raise PeerLost(
                f"node {self.place.node}: node 0 does not answer at {self.place.address}:"
                f"{self.place.port + 1} (MASTER_ADDR, MASTER_PORT + 1): {_first_line(error)}"
            ) from error

    def _came_again(self, store: TCPStore) -> bool:
        """Whether a process before this one has met the others here, as when a pod was replaced.

        They cannot go on without its ranks: tell them, should it not have had the time, and wait
        until they have gone.
        """
        me = self.place.node
        with contextlib.suppress(RuntimeError):
            if store.add(f"came-{me}", 1) == 1:
                return False
            if not store.check([f"ended-{me}"]):
                store.set(f"ended-{me}", str(FAILED))
            while store.check([f"ended-{me}"]):
                time.sleep(_AGAIN_S)
        time.sleep(_AGAIN_S)
        return True

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._watching is not None:
            self._watching.join()
        self._store = None

    def tell_prepared(self, folder: str, token: int) -> None:
        """The first node: the run folder is there, and ours under the lease's `token`."""
        if self._store is not None:
            self._store.set("prepared", f"{token} {folder}")

    def wait_prepared(self) -> tuple[str, int]:
        """The others: the run folder and the token, once the first node has prepared it.

        Raises:
            PeerLost: It failed, or did not get so far within `START_S`.
        """
        assert self._store is not None
        try:
            said = self._store.get("prepared").decode()
        except RuntimeError as error:
            raise PeerLost(
                f"node 0 did not prepare the run folder: see its log ({_first_line(error)})"
            ) from error
        token, _, folder = said.partition(" ")
        return folder, int(token)

    def watch(self, on_stop: Callable[[], None], on_loss: Callable[[str], None]) -> None:
        """From now on call `on_stop` once when another machine was asked to stop, and `on_loss`
        once when one has failed or is gone; from another thread."""
        if self._store is not None:
            self._watching = threading.Thread(
                target=self._watch, args=(on_stop, on_loss), name="peers", daemon=True
            )
            self._watching.start()

    def ask_to_stop(self) -> None:
        """Have the ranks of every machine asked to stop."""
        if self._store is not None:
            with contextlib.suppress(RuntimeError):
                self._store.set("stop", "1")

    def leave(self, code: int) -> None:
        """Tell the others how it ended here; the first node waits until they have left too.

        Only the first call counts.
        """
        if self._store is None or self._left:
            return
        self._left = True
        with contextlib.suppress(RuntimeError):
            self._store.set(f"ended-{self.place.node}", str(code))
            end = time.monotonic() + _LEAVE_S
            others = [f"ended-{node}" for node in range(1, self.place.num_nodes)]
            while self.place.node == 0 and time.monotonic() < end and not self._have(others):
                time.sleep(0.1)

    def _have(self, keys: list[str]) -> bool:
        assert self._store is not None
        return bool(self._store.check(keys))

    def _watch(self, on_stop: Callable[[], None], on_loss: Callable[[str], None]) -> None:
        others = [node for node in range(self.place.num_nodes) if node != self.place.node]
        heard = dict.fromkeys(others, (b"", time.monotonic()))
        told, stop, beat = False, False, 0
        while not self._done.wait(_BEAT_S):
            beat += 1
            try:
                self.lost = self._look(beat, others, heard)
                stop = self._have(["stop"])
            except RuntimeError as error:  # the store is gone, and the first node with it
                self.lost = f"node 0 is gone ({_first_line(error)})"
            if self.lost and not self._done.is_set():
                on_loss(self.lost)
                return
            if stop and not told:
                told = True
                on_stop()

    def _look(self, beat: int, others: list[int], heard: dict[int, tuple[bytes, float]]) -> str:
        """Give a sign of life, and read those of the others; what is wrong, or ""."""
        assert self._store is not None
        self._store.set(f"alive-{self.place.node}", str(beat))
        now = time.monotonic()
        for node in others:
            if self._have([f"ended-{node}"]):
                code = int(self._store.get(f"ended-{node}"))
                if code not in ORDERLY:
                    return f"node {node} has failed (exit code {code}): see its log"
                heard[node] = (b"", now)
                continue
            sign = self._store.get(f"alive-{node}") if self._have([f"alive-{node}"]) else b""
            if sign != heard[node][0]:
                heard[node] = (sign, now)
            elif now - heard[node][1] > self._silence_s:
                return f"node {node} gave no sign of life for {self._silence_s:g} s"
        return ""


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
