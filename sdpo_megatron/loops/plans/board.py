"""Where rank 0 says that a step's plan is there, and where every rank looks.

Nobody waits for attempts inside a collective: a rank asks the store of the process group now and
then, sleeps in between, and hears when it is asked to stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import Store

from sdpo_megatron.errors import PeerLost
from sdpo_megatron.loops.stop import StopRequest

_STOP = "stop"
_LEAST_S, _MOST_S = 0.002, 0.5
_SHARE = 0.05  # of the time that was waited so far: that much later, at most, the plan is seen


class PlanBoard:
    """The board of a run's ranks; they must have one `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def announce(self, step: int, plan: str | None) -> None:
        """Say where the plan of `step` is; None: there will be none, the run stops."""
        self._store.set(_key(step), plan or "")

    def wait(self, step: int, stop: StopRequest) -> str | None:
        """What was announced of `step`, as soon as it is. A rank that is asked to stop meanwhile
        tells rank 0, which decides for all.

        Raises:
            PeerLost: The store is gone, and with it the process that keeps it.
        """
        try:
            return self._wait(step, stop)
        except RuntimeError as error:
            raise PeerLost(
                f"while the plan of step {step} was waited for, the store that ranks meet at went "
                f"away ({str(error).splitlines()[0]}): rank 0 or its machine is gone; see its log"
            ) from error

    def _wait(self, step: int, stop: StopRequest) -> str | None:
        began, told = time.monotonic(), False
        while not self._store.check([_key(step)]):
            if stop.asked and not told:
                self._store.set(_STOP, "asked")
                told = True
            waited = time.monotonic() - began
            time.sleep(min(_MOST_S, max(_LEAST_S, _SHARE * waited)))
        return self._store.get(_key(step)).decode() or None

    @contextmanager
    def relaying(self, stop: StopRequest) -> Iterator[None]:
        """On rank 0: while inside, what another rank was asked is asked of `stop` too."""
        done = threading.Event()

        def relay() -> None:
            while not done.wait(_MOST_S):
                if self._store.check([_STOP]):
                    stop.ask()
                    return

        thread = threading.Thread(target=relay, name="stop-relay", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _key(step: int) -> str:
    return f"plan/{step}"
