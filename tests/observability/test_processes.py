"""Memory of a process tree, against allocations of known size."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from sdpo_megatron.observability.processes import limit_bytes, measure

MIB = 2**20
HOLD_64_MIB = "import sys; block = b'x' * (64 << 20); print('held', flush=True); sys.stdin.read()"


@contextmanager
def _holder(program: str = HOLD_64_MIB) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def test_a_child_counts_for_the_run_and_not_for_rank_0() -> None:
    before = measure()
    with _holder():
        during = measure()
    assert during.num_processes == before.num_processes + 1
    grown = (during.all_bytes - during.own_bytes) - (before.all_bytes - before.own_bytes)
    assert 60 * MIB < grown < 110 * MIB


def test_grandchildren_count() -> None:
    program = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {HOLD_64_MIB!r}],\n"
        "                         stdin=sys.stdin, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print('held', flush=True)\n"
        "child.wait()\n"
    )
    with _holder(program) as pid:
        use = measure(pid)
    assert use.num_processes == 2
    assert 60 * MIB < use.all_bytes < 130 * MIB


def test_a_rank_counts_from_its_launcher_downwards(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "from sdpo_megatron.observability.processes import measure\n"
        "import sys; print(measure().num_processes)"
    )
    command = [sys.executable, "-c", program]
    with _holder():  # a sibling of the process that asks, like another rank
        alone = subprocess.run(command, capture_output=True, text=True, check=True)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        as_rank = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(alone.stdout) == 1
    assert int(as_rank.stdout) == measure(os.getpid()).num_processes + 2


def test_a_page_that_two_processes_share_is_counted_once() -> None:
    block = bytearray(b"x" * (64 * MIB))
    before = measure()
    if not before.shared_counted_once:
        pytest.skip("this system does not tell the PSS of processes")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # the child holds the block by copy-on-write and waits
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    during = measure()
    os.close(writer)
    os.close(reader)
    os.waitpid(pid, 0)
    assert len(block) == 64 * MIB
    assert during.all_bytes - before.all_bytes < 32 * MIB


def test_the_limit_is_the_containers_where_it_has_one(tmp_path: Path) -> None:
    machine = psutil.virtual_memory().total
    absent, unlimited, set_to = (str(tmp_path / name) for name in ("absent", "max", "set"))
    Path(unlimited).write_text("max\n")
    Path(set_to).write_text(f"{64 * MIB}\n")
    assert limit_bytes((absent, unlimited)) == machine
    assert limit_bytes((absent, set_to)) == 64 * MIB
