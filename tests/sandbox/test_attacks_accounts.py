"""Attacks on the accounts: memory and CPU time that nobody counts. One property a test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sdpo_megatron.sandbox import Program, RunLimits, Sandbox, SandboxConfig
from tests.sandbox.attacks import assert_stopped, attack, facts
from tests.sandbox.conftest import Target
from tests.sandbox.ordinary_user import UserSandbox

CGROUPS = ("cgroup_cpu", "cgroup_memory", "cgroup_pids")
_LIMITS = RunLimits(wall_s=20.0, cpu_s=1.0, memory_mib=192)


@pytest.fixture(scope="module", params=["own user", "ordinary user"])
def without_cgroups(request: pytest.FixtureRequest) -> Iterator[Sandbox | UserSandbox]:
    """A sandbox with no account but the supervisor's own."""
    config = SandboxConfig(workers=1, disable_layers=CGROUPS)
    own = request.param == "own user" or os.geteuid() != 0
    sandbox = Sandbox(config, _LIMITS).start() if own else UserSandbox(config, _LIMITS)
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize("flags", ["0x21", "0x23", "0x40022"])
def test_memory_that_no_process_is_charged_for(anywhere: Target, flags: str) -> None:
    """Anonymous maps that are shared (or of huge pages) are in no process's account."""
    body = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        number, size = ctypes.c_int, ctypes.c_size_t
        libc.mmap.argtypes = [ctypes.c_void_p, size, number, number, number, ctypes.c_long]
        if libc.mmap(None, 1 << 21, 3, {flags}, -1, 0) == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "")
    """
    result = anywhere.run(attack(body))
    assert_stopped(result, "PermissionError")


def test_shared_memory_of_dev_zero(anywhere: Target) -> None:
    body = "import mmap, os; mmap.mmap(os.open('/dev/zero', os.O_RDONLY), 4096, prot=1)"
    assert_stopped(anywhere.run(attack(body)), "FileNotFoundError", "PermissionError")


@pytest.mark.parametrize(
    "body",
    [
        "import socket; a, b = socket.socketpair(); a.setsockopt(1, socket.SO_SNDBUF, 1 << 20)",
        "import socket; a, b = socket.socketpair(); a.setsockopt(1, socket.SO_RCVBUF, 1 << 20)",
        "import fcntl, os; fcntl.fcntl(os.pipe()[1], 1031, 1 << 20)",  # F_SETPIPE_SZ
        "import socket; a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [0])",
    ],
)
def test_larger_or_more_buffers_of_the_kernel(anywhere: Target, body: str) -> None:
    assert_stopped(anywhere.run(attack(body)), "PermissionError")


def test_mapped_files_count_as_memory(without_cgroups: Sandbox) -> None:
    """RssShmem: six processes that map a file are above the limit together with one block."""
    source = (
        "import mmap, os, time\n"
        "with open('/tmp/x', 'wb') as file:\n"
        "    file.write(bytes(12 << 20))\n"
        "file = open('/tmp/x', 'r+b')\n"
        "view = mmap.mmap(file.fileno(), 12 << 20)\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0: break\n"
        "else:\n"
        "    block = bytearray(b'x') * (125 << 20)\n"
        "sum(view[::4096])\n"
        "time.sleep(3)\n"
        "os.write(1, b'BREACH')\n"
    )
    result = without_cgroups.run(Program.script(source))
    assert result.cause == "memory", facts(result)


_ORPHANS = """
import os, time
{prelude}
start = time.monotonic()
while time.monotonic() - start < 12:
    if os.fork() == 0:
        if os.fork() == 0:
            end = time.process_time() + 0.03
            while time.process_time() < end: pass
        os._exit(0)
    {reap}
os.write(1, b'BREACH')
"""


@pytest.mark.parametrize(
    ("prelude", "reap"),
    [
        ("", "try:\n        while True: os.waitpid(-1, 0)\n    except OSError: pass"),
        (
            "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
            "time.sleep(0.032)",
        ),
    ],
    ids=["reaped", "ignored"],
)
def test_cpu_time_of_short_lived_orphans(without_cgroups: Sandbox, prelude: str, reap: str) -> None:
    """None lives long enough to be sampled, yet all count: about 12 s at a limit of 1."""
    result = without_cgroups.run(Program.script(_ORPHANS.format(prelude=prelude, reap=reap)))
    assert b"BREACH" not in result.stdout, facts(result)
    refused = result.report.type == "PermissionError"
    assert result.cause == "cpu_time" or refused, facts(result)
    assert result.cpu_s < 3


def test_cpu_time_by_the_cgroups_account(anywhere: Target) -> None:
    if "cgroup_cpu" not in anywhere.layers:
        pytest.skip("no cgroup that counts CPU time here")
    reap = "try:\n        while True: os.waitpid(-1, 0)\n    except OSError: pass"
    result = anywhere.run(Program.script(_ORPHANS.format(prelude="", reap=reap), cpu_s=1.0))
    assert result.cause == "cpu_time", facts(result)
    assert result.cpu_s < 3


def test_threads_count_as_processes(without_cgroups: Sandbox) -> None:
    """Seven processes of five threads are more than 16, though no process has more."""
    source = (
        "import os, threading, time\n"
        "for _ in range(6):\n"
        "    try:\n"
        "        if os.fork() == 0: break\n"
        "    except OSError: break\n"
        "os.write(1, b'p')\n"
        "try:\n"
        "    for _ in range(4):\n"
        "        threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "        os.write(1, b't')\n"
        "except RuntimeError: pass\n"
        "time.sleep(2)\n"
        "os._exit(0)\n"  # without waiting for its threads, none of which has ended before
    )
    result = without_cgroups.run(Program.script(source))
    assert result.cause == "processes" or len(result.stdout) <= 16, facts(result)
