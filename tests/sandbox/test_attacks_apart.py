"""Attacks that look for another run, or want to outlive their own. One property a test."""

from __future__ import annotations

import os
import signal
import time

import pytest

from sdpo_megatron.errors import VerifierUnavailable
from sdpo_megatron.sandbox import Judge, Program, RunLimits, Sandbox, SandboxConfig
from sdpo_megatron.sandbox.inside.fence.view import packages_below
from tests.sandbox.attacks import assert_stopped, attack, facts
from tests.sandbox.conftest import Target
from tests.sandbox.test_attacks_exhaustion import _processes_of

_PRCTL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl({arguments}) < 0:
    raise OSError(ctypes.get_errno(), "")
"""


@pytest.mark.parametrize(
    "arguments",
    ["1, 0, 0, 0, 0", "4, 1, 0, 0, 0", "36, 1, 0, 0, 0", "22, 1, 0, 0, 0", "8, 1, 0, 0, 0"],
    ids=["no parent-death signal", "dumpable", "subreaper", "seccomp mode", "keep capabilities"],
)
def test_prctl(anywhere: Target, arguments: str) -> None:
    assert_stopped(anywhere.run(attack(_PRCTL.format(arguments=arguments))), "PermissionError")


def test_a_program_dies_with_its_worker() -> None:
    marker = "outlives-worker"
    source = (
        "import ctypes, os, signal, time\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.prctl(1, 0, 0, 0, 0)\n"
        f"libc.prctl(15, b'{marker}', 0, 0, 0)\n"
        "os.fork(); os.fork()\n"
        "try: os.setsid()\n"
        "except OSError: pass\n"
        "time.sleep(60)\n"
    )
    for namespaces in ((), ("user", "pid", "net", "mount", "ipc", "uts")):
        config = SandboxConfig(workers=1, minimum_layers=(), disable_layers=namespaces)
        with Sandbox(config, RunLimits(wall_s=60.0)) as sandbox:
            pid = next(iter(sandbox._indices))
            _kill_when(lambda: len(_processes_of(marker)) == 4, pid)
            with pytest.raises(VerifierUnavailable):
                sandbox.run(Program.script(source))
            _wait_for(lambda: not _processes_of(marker), "the program is gone")
            counting = "import os\nfor _ in range(9):\n    if os.fork() == 0: os._exit(0)\nprint(9)"
            assert sandbox.run(Program.script(counting)).stdout == b"9\n"


def _kill_when(condition: object, pid: int) -> None:
    if os.fork() == 0:
        try:
            _wait_for(condition, "the program has started")
            os.kill(pid, signal.SIGKILL)
        finally:
            os._exit(0)


def _wait_for(condition: object, what: str) -> None:
    for _ in range(400):
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise AssertionError(f"still not so after 20 s: {what}")


def test_frames_and_objects_of_the_machinery(anywhere: Target) -> None:
    """Only the role that runs the program, and the two lines that started it, are on the stack."""
    source = """
import gc, sys
frame, names = sys._getframe(), []
while frame is not None:
    names.append(frame.f_code.co_name)
    frame = frame.f_back
wanted = "Run Tools Cgroups _Worker _Zygote _Process Setup Plan Limits socket".split()
gc.unfreeze()
found = {type(o).__name__ for o in gc.get_objects()} & set(wanted)
print(names, sorted(found), sys.orig_argv, len(sys._current_frames()))
"""
    for _ in range(3):
        result = anywhere.run(Program.script(source))
        expected = b"['<module>', 'main', '_run', 'become', 'main', '<module>'] [] [''] 1\n"
        assert result.stdout == expected, facts(result)


def test_what_is_left_of_the_template_tells_nothing_of_earlier_runs(anywhere: Target) -> None:
    """A program reads the same out of it whatever ran before, but for its own uid and folder."""
    source = """
import gc, os, sys
uids = os.getuid(), os.getuid() + 1  # its own, and its judge's
own = os.getcwd().encode(), *(b"%08x" % uid for uid in uids)
changes = lambda number: 1 << 40 <= number < 1 << 47 or number in uids  # an address, or a uid
todo, seen, found = [sys.modules["inside.template"]._servers[0]], set(), []
while todo:
    one = todo.pop()
    if id(one) in seen or isinstance(one, (type, type(sys), type(len), type(lambda: 0))):
        continue
    seen.add(id(one))
    todo += gc.get_referents(one)
    one = getattr(one, "raw", one)
    if isinstance(one, int) and changes(one):
        one = 0
    one = bytes(one) if isinstance(one, (bytes, bytearray, memoryview)) else repr(one).encode()
    one = b"" if b" at 0x" in one else one
    for at in range(0, len(one) - 7, 8):
        if changes(int.from_bytes(one[at : at + 8], "little")):
            one = one[:at] + bytes(8) + one[at + 8 :]
    for mine in own:
        one = one.replace(mine, b"?")
    found.append(one)
print(len(found), hash(tuple(sorted(found))))
"""
    first = anywhere.run(Program.script(source))
    anywhere.run(Program.script("x = 'secret'", b"secret", cpu_s=1.0, memory_mib=128))
    judge = Judge(setup=(), tests=((0, "assert candidate(1) == 1"),))
    judged = Program(readings=("def f(x): return x",), mode="serve", entry="f", judge=judge)
    assert anywhere.run(judged).judgement is not None
    again = anywhere.run(Program.script(source))
    assert int(first.stdout.split()[0]) > 40, facts(first)
    assert again.stdout == first.stdout, facts(again)


def test_each_run_begins_with_chances_and_streams_of_its_own(anywhere: Target) -> None:
    """All are cloned from one process, which has played a run before it was fenced."""
    source = """
import random, signal, sys
streams = sys.stdin, sys.stdout, sys.stderr
print(random.random(), file=sys.stderr)
print(sys.argv, "attempt" in sys.modules, signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL)
print(streams == (sys.__stdin__, sys.__stdout__, sys.__stderr__), sys.stdin.read(), "\\udcff")
"""
    results = [anywhere.run(Program.script(source, b"\xff")) for _ in range(3)]
    for result in results:
        assert result.stdout == b"['attempt.py'] False True\nTrue \xff \xff\n", facts(result)
    assert len({result.stderr for result in results}) == 3


def test_leaving_something_beside_its_own_folder(anywhere: Target) -> None:
    body = "import os; os.chdir('..'); open('left', 'w')"
    assert_stopped(anywhere.run(attack(body)), "PermissionError", "OSError")
    listed = Program.script("import os; print('left' in os.listdir('..'))")
    assert anywhere.run(listed).stdout == b"False\n"


def test_threads_that_nobody_joins_are_waited_for(anywhere: Target) -> None:
    source = """
import threading, time
threading.Thread(target=lambda: (time.sleep(0.2), print("late"))).start()
"""
    assert anywhere.run(Program.script(source)).stdout == b"late\n"


@pytest.mark.parametrize(
    "call",
    [
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "fcntl.fcntl(fd, 37, b'\\0' * 32)",  # F_OFD_SETLK
        "fcntl.fcntl(fd, 5, b'\\0' * 32)",  # F_GETLK
        "fcntl.fcntl(fd, 1024, fcntl.F_RDLCK)",  # F_SETLEASE
        "fcntl.fcntl(fd, 1026, 1)",  # F_NOTIFY
        "fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())",
    ],
)
def test_locks_on_a_shared_file(anywhere: Target, call: str) -> None:
    body = f"import fcntl, os; fd = os.open(os.__file__, os.O_RDONLY); {call}"
    assert_stopped(anywhere.run(attack(body)), "PermissionError")


@pytest.mark.parametrize(
    "arguments",
    ["socket.AF_INET", "socket.AF_TIPC, socket.SOCK_STREAM", "socket.AF_UNIX, socket.SOCK_DGRAM"],
)
def test_socket_pairs_of_another_kind(anywhere: Target, arguments: str) -> None:
    body = f"import socket; socket.socketpair({arguments})"
    assert_stopped(anywhere.run(attack(body)), "PermissionError")


@pytest.mark.parametrize("option", [17, 59, 77, 31], ids=["CRED", "GROUPS", "PIDFD", "SEC"])
def test_who_is_at_the_other_end_of_the_channel(anywhere: Target, option: int) -> None:
    body = f"import socket; socket.socket(fileno=3).getsockopt(1, {option}, 64)"
    assert_stopped(anywhere.run(attack(body)), "PermissionError")


def test_synchronising_the_hosts_disk(anywhere: Target) -> None:
    """It succeeds and does nothing: not even on a descriptor that could not be synchronised."""
    source = "import os\nos.fsync(os.pipe()[0])\nos.fdatasync(os.pipe()[0])\nprint('pretended')"
    assert anywhere.run(Program.script(source)).stdout == b"pretended\n"


@pytest.mark.parametrize(
    "call",
    [
        "os.sync()",
        "os.posix_fallocate(1, 0, 9)",
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
        "os.nice(5)",
    ],
)
def test_what_all_runs_share(anywhere: Target, call: str) -> None:
    result = anywhere.run(attack(f"import os; {call}"))
    if call != "os.sync()":  # it cannot say that it failed
        assert_stopped(result, "PermissionError")


def test_limits_and_processors_of_others(anywhere: Target) -> None:
    body = f"import resource; resource.prlimit({os.getpid()}, resource.RLIMIT_CPU, (1, 1))"
    assert_stopped(anywhere.run(attack(body)), "PermissionError")
    body = f"import os; os.sched_setaffinity({os.getpid()}, [0])"
    assert_stopped(anywhere.run(attack(body)), "PermissionError")


def test_a_child_that_is_its_parents_sibling(anywhere: Target) -> None:
    body = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0) < 0:
            raise OSError(ctypes.get_errno(), "")
    """
    if os.uname().machine == "x86_64":
        assert_stopped(anywhere.run(attack(body)), "PermissionError")


def test_event_loops_and_pipes_still_work(anywhere: Target) -> None:
    source = """
import asyncio, multiprocessing, socket, tempfile, os
async def twice(x):
    await asyncio.sleep(0)
    return 2 * x
print(asyncio.run(twice(4)))
a, b = socket.socketpair()
a.sendall(b'hi'); print(b.recv(2))
reader, writer = multiprocessing.Pipe()
writer.send([1]); print(reader.recv())
with tempfile.NamedTemporaryFile() as file:
    file.write(b'x'); file.flush(); os.fsync(file.fileno()); print(os.path.getsize(file.name))
"""
    result = anywhere.run(Program.script(source))
    assert result.stdout == b"8\nb'hi'\n[1]\n1\n", facts(result)


def test_packages_of_other_interpreters_are_hidden(tmp_path: object) -> None:
    """A host of the Red Hat layout keeps them among the shared libraries."""
    root = str(tmp_path)
    for path in (
        "lib64/python3.9/site-packages/sets",
        "lib64/python3.11/site-packages/sets",
        "lib64/python3.11/json",
        "lib64/pypy3/lib",
        "lib64/tool/python/dist-packages",
        "lib64/glibc-hwcaps",
        "python/lib/python3.12/site-packages",
    ):
        os.makedirs(f"{root}/{path}")
    own = f"{root}/lib64/python3.11"
    found = packages_below(own, [f"{root}/lib64"])
    assert [path.removeprefix(f"{root}/lib64/") for path in found] == [
        "pypy3",
        "python3.11/site-packages",
        "python3.9",
        "tool/python/dist-packages",
    ]
    assert packages_below(f"{root}/python/lib/python3.12", []) == [
        f"{root}/python/lib/python3.12/site-packages"
    ]


def test_two_sandboxes_of_a_host_share_no_uid() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: an ordinary user has one uid")
    config = SandboxConfig(workers=2)
    with Sandbox(config) as one, Sandbox(config) as other:
        blocks = [_blocks(sandbox) for sandbox in (one, other)]
    assert len(blocks[0] | blocks[1]) == 4, blocks


def _blocks(sandbox: Sandbox) -> set[int]:
    """First host uids of the blocks, read where the kernel keeps the maps."""
    found = set()
    for worker in sandbox._indices:
        with open(f"/proc/{worker}/task/{worker}/children", encoding="ascii") as file:
            template = file.read().split()[0]
        with open(f"/proc/{template}/uid_map", encoding="ascii") as file:
            found.add(int(file.read().split()[1]))
    return found
