"""Two trainers never write one run folder; a dead holder is waited out, a living one is named."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdpo_megatron.errors import LeaseLost, RunFolderInUse
from sdpo_megatron.loops.launching import lease as leases
from sdpo_megatron.loops.launching.lease import Lease

HOLD = """
import sys, time
from pathlib import Path
from sdpo_megatron.loops.launching.lease import Lease
lease = Lease.acquire(Path(sys.argv[1]), ttl_s=float(sys.argv[2]))
print(lease.token, flush=True)
while True:
    time.sleep(0.05)
    try:
        lease.check()
    except Exception as error:
        print(error, flush=True)
        break
"""


@contextlib.contextmanager
def holder(run: Path, ttl_s: float) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease of `run`; killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run), str(ttl_s)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip().isdigit()
            yield process
        finally:
            process.kill()


def from_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of a holder can be seen from here."""
    monkeypatch.setattr(leases, "_here", lambda entry: 0)


def test_a_released_lease_is_taken_at_once_with_a_greater_token(tmp_path: Path) -> None:
    with Lease.acquire(tmp_path) as first:
        first.check()
    with Lease.acquire(tmp_path) as second:
        assert second.token == first.token + 1
        with pytest.raises(LeaseLost):
            first.check()


def test_a_living_holder_is_named(tmp_path: Path) -> None:
    with (
        holder(tmp_path, 30.0) as process,
        pytest.raises(RunFolderInUse, match=rf"process {process.pid} on .*run\.folder"),
    ):
        Lease.acquire(tmp_path)


def test_a_killed_holder_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    with holder(tmp_path, 3600.0):
        pass
    with Lease.acquire(tmp_path, ttl_s=3600.0) as lease:
        assert lease.token == 2


def test_a_dead_holder_of_another_machine_is_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(tmp_path, 0.5):
        pass
    from_another_machine(monkeypatch)
    said: list[str] = []
    started = time.monotonic()
    with Lease.acquire(tmp_path, ttl_s=0.5, progress=said.append) as lease:
        assert lease.token == 2
        assert time.monotonic() - started >= 0.5
    assert socket.gethostname() in said[0]


def test_a_living_holder_of_another_machine_is_told_by_its_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_another_machine(monkeypatch)
    with holder(tmp_path, 2.0), pytest.raises(RunFolderInUse):
        Lease.acquire(tmp_path, ttl_s=2.0)


def test_waiting_ends_when_the_holder_gives_back(tmp_path: Path) -> None:
    first = Lease.acquire(tmp_path)
    threading.Timer(0.3, first.release).start()
    with Lease.acquire(tmp_path, wait_s=60.0) as second:
        assert second.token == 2


def test_a_holder_that_was_stopped_for_too_long_finds_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_another_machine(monkeypatch)
    with holder(tmp_path, 0.5) as process:
        process.send_signal(signal.SIGSTOP)
        lease = Lease.acquire(tmp_path, ttl_s=0.5)
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=60)
        assert "without writing anything more" in said
        assert f"process {os.getpid()} on" in said
        lease.check()
        lease.release()


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    got: list[Lease] = []
    refused: list[RunFolderInUse] = []

    def try_it() -> None:
        try:
            got.append(Lease.acquire(tmp_path))
        except RunFolderInUse as error:
            refused.append(error)

    threads = [threading.Thread(target=try_it) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 15)
    got[0].release()


def test_loss_is_told_once(tmp_path: Path) -> None:
    lost: list[str] = []
    first = Lease.acquire(tmp_path, ttl_s=0.4)
    first.on_loss = lost.append
    (tmp_path / "lease" / "000002").write_text('{"holder": "a usurper"}')
    deadline = time.monotonic() + 60
    while not lost and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(lost) == 1
    assert "a usurper has the lease" in lost[0]
    first.release()
    assert not (tmp_path / "lease" / "000001.released").exists()


def test_a_rank_asks_for_its_launchers_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Lease.inherited(tmp_path) is None
    with Lease.acquire(tmp_path) as lease:
        monkeypatch.setenv(leases.VARIABLE, str(lease.token))
        inherited = Lease.inherited(tmp_path)
        assert inherited is not None
        inherited.check()
    with Lease.acquire(tmp_path), pytest.raises(LeaseLost):
        inherited.check()
