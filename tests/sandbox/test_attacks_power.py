"""Attacks that seize power: processes, privileges, rare system calls. One property a test."""

from __future__ import annotations

import os

import pytest

from sdpo_megatron.sandbox import Program
from tests.sandbox.attacks import assert_stopped, attack, facts
from tests.sandbox.conftest import Target

_CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
if libc.syscall({number}, {arguments}) < 0:
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""

x86_64 = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="the numbers of x86_64's system calls"
)


def _call(number: int, *arguments: object) -> Program:
    words = ", ".join(str(argument) for argument in arguments)
    return attack(_CALL.format(number=number, arguments=words))


def test_starting_a_program(sandbox: Target) -> None:
    body = "import subprocess; subprocess.run(['/bin/sh', '-c', 'true'], check=True)"
    assert_stopped(sandbox.run(attack(body)), "FileNotFoundError", "PermissionError")


def test_executing_a_file_of_its_own(sandbox: Target) -> None:
    body = """
        import os
        open('/tmp/x', 'w').write('#!/bin/true')
        os.chmod('/tmp/x', 0o700)
        os.execv('/tmp/x', ['x'])
    """
    assert_stopped(sandbox.run(attack(body)), "PermissionError")


def test_executing_the_interpreter(sandbox: Target) -> None:
    body = (
        "import os, sys; os.execv(os.path.realpath(sys.executable), ['python', '-c', 'print(1)'])"
    )
    assert_stopped(sandbox.run(attack(body)), "FileNotFoundError", "PermissionError")


def test_tracing_a_child(sandbox: Target) -> None:
    body = """
        import ctypes, os, time
        pid = os.fork()
        if pid == 0:
            time.sleep(1)
            os._exit(0)
        if ctypes.CDLL(None, use_errno=True).ptrace(16, pid, 0, 0) < 0:
            raise PermissionError(ctypes.get_errno())
    """
    assert_stopped(sandbox.run(attack(body)), "PermissionError")


def test_tracing_its_parent(sandbox: Target) -> None:
    body = """
        import ctypes, os
        if ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid() or 1, 0, 0) < 0:
            raise PermissionError(ctypes.get_errno())
    """
    assert_stopped(sandbox.run(attack(body)), "PermissionError")


def test_killing_its_parent(sandbox: Target) -> None:
    body = "import os; os.kill(os.getppid() or 2, 9)"
    result = sandbox.run(attack(body))
    assert result.cause == ""
    assert_stopped(result)


def test_killing_everything_in_sight(sandbox: Target) -> None:
    """The honest runs after this test show that nothing outside was in sight."""
    source = """
import os, signal
for number in (signal.SIGTERM, signal.SIGKILL):
    try:
        os.kill(-1, number)
    except OSError:
        pass
print('done')
"""
    result = sandbox.run(Program.script(source))
    assert result.cause == "", facts(result)


def test_joining_another_process_group(anywhere: Target) -> None:
    """A signal to that group would reach it there, and its own to the group would reach others."""
    body = "import os; os.setpgid(0, os.getpgid(os.getppid()) or 1)"
    assert_stopped(anywhere.run(attack(body)), "PermissionError")
    source = "import os; print(os.getpgrp() == os.getpid())"
    assert anywhere.run(Program.script(source)).stdout == b"True\n"


def test_killing_processes_of_the_host_by_number(sandbox: Target) -> None:
    body = f"import os; os.kill({os.getpid()}, 0)"
    assert_stopped(sandbox.run(attack(body)), "ProcessLookupError", "PermissionError")


@x86_64
def test_new_user_namespace_by_unshare(sandbox: Target) -> None:
    assert_stopped(sandbox.run(_call(272, 0x10000000)), "PermissionError")


@x86_64
def test_new_namespaces_by_clone(sandbox: Target) -> None:
    assert_stopped(sandbox.run(_call(56, 0x10000000 | 17, 0, 0, 0, 0)), "PermissionError")


@x86_64
def test_new_namespaces_by_clone3(sandbox: Target) -> None:
    assert_stopped(sandbox.run(_call(435, "ctypes.create_string_buffer(88)", 88)), "OSError")


@x86_64
def test_joining_a_namespace(sandbox: Target) -> None:
    assert_stopped(sandbox.run(_call(308, 3, 0)), "PermissionError")


@x86_64
def test_mounting(sandbox: Target) -> None:
    program = _call(165, "b'tmpfs'", "b'/tmp'", "b'tmpfs'", 0, 0)
    assert_stopped(sandbox.run(program), "PermissionError")


@x86_64
def test_unmounting(sandbox: Target) -> None:
    assert_stopped(sandbox.run(_call(166, "b'/tmp'", 2)), "PermissionError")


def test_chroot(sandbox: Target) -> None:
    assert_stopped(sandbox.run(attack("import os; os.chroot('/tmp')")), "PermissionError")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("io_uring_setup", 425),
        ("bpf", 321),
        ("userfaultfd", 323),
        ("perf_event_open", 298),
        ("keyctl", 250),
        ("add_key", 248),
        ("process_vm_readv", 310),
        ("pidfd_getfd", 438),
        ("open_by_handle_at", 304),
        ("kexec_load", 246),
        ("init_module", 175),
        ("reboot", 169),
        ("settimeofday", 164),
        ("memfd_create", 319),
        ("mount_setattr", 442),
        ("a number that no kernel has", 9999),
    ],
)
@x86_64
def test_raw_system_call(sandbox: Target, name: str, number: int) -> None:
    """EPERM from the filter, not EFAULT or EINVAL from the kernel's own code behind it."""
    result = sandbox.run(_call(number, 0, 0, 0, 0, 0))
    assert_stopped(result, "PermissionError")


@x86_64
def test_system_calls_of_another_architecture(sandbox: Target) -> None:
    """x32 calls would slip past a filter that compares numbers only: the process is killed."""
    result = sandbox.run(_call(0x40000000 + 41, 2, 1, 0))
    assert b"BREACH" not in result.stdout
    assert result.signal == 31, facts(result)  # SIGSYS


def test_becoming_root(sandbox: Target) -> None:
    assert_stopped(sandbox.run(attack("import os; os.setuid(0)")), "PermissionError")


def test_raising_a_limit(sandbox: Target) -> None:
    body = "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))"
    assert_stopped(sandbox.run(attack(body)), "ValueError", "PermissionError")


def test_typing_into_a_terminal(sandbox: Target) -> None:
    body = "import fcntl; fcntl.ioctl(0, 0x5412, b'x')"
    assert_stopped(sandbox.run(attack(body)), "PermissionError")


def test_the_hosts_name(sandbox: Target) -> None:
    result = sandbox.run(Program.script("import os; print(os.uname().nodename)"))
    assert result.stdout == b"sandbox\n"


def test_asking_to_be_dumped(sandbox: Target) -> None:
    """A crash writes no core file: RLIMIT_CORE is 0 and cannot be raised."""
    body = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))"
    assert_stopped(sandbox.run(attack(body)), "ValueError", "PermissionError")
