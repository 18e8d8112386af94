"""Memory of a process tree, against allocations of known size."""

from __future__ import annotations

import os
import subprocess
import sys

from sdpo_megatron.observability.processes import measure

MIB = 2**20
HOLD_64_MIB = "import sys; block = b'x' * (64 << 20); print('held', flush=True); sys.stdin.read()"


def test_a_child_counts_for_the_run_and_not_for_rank_0() -> None:
    before = measure()
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD_64_MIB], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        during = measure()
        child.communicate()
    assert during.num_processes == before.num_processes + 1
    grown = (during.all_bytes - during.rank0_bytes) - (before.all_bytes - before.rank0_bytes)
    assert 60 * MIB < grown < 110 * MIB


def test_another_root_can_be_measured_and_is_counted_alone() -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD_64_MIB], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        use = measure(child.pid)
        child.communicate()
    assert use.num_processes == 1
    assert use.rank0_bytes == use.all_bytes
    assert 60 * MIB < use.all_bytes < 110 * MIB


def test_a_page_that_two_processes_share_is_counted_once() -> None:
    block = bytearray(b"x" * (64 * MIB))
    before = measure()
    if not before.shared_counted_once:
        return  # the system does not tell; the flag says so
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
