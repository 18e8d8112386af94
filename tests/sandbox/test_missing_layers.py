"""What the absence of a layer lets through: each test's name says it, each program shows it.

Run on the zygote as root, where layers can be switched off one by one.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from sdpo_megatron.sandbox import Program, RunLimits, Sandbox, SandboxConfig
from tests.sandbox.attacks import attack, facts

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: layers are switched off one by one"
)


def _run(disabled: tuple[str, ...], program: Program) -> bytes:
    config = SandboxConfig(workers=1, minimum_layers=(), disable_layers=disabled)
    with Sandbox(config, RunLimits(wall_s=20.0, cpu_s=3.0, memory_mib=192)) as sandbox:
        result = sandbox.run(program)
        assert not set(disabled) & set(result.layers)
        assert result.stdout, facts(result)
        return result.stdout


def test_without_net_seccomp_and_landlock_a_program_reaches_the_hosts_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = attack(f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)")
        assert _run(("net", "seccomp", "landlock"), program) == b"BREACH\n"
        for one_of_them_left in (("seccomp", "landlock"), ("net", "landlock"), ("net", "seccomp")):
            assert b"STOPPED" in _run(one_of_them_left, program)


def test_without_mount_and_landlock_a_program_reads_the_hosts_files() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        secret = Path(folder) / "secret"
        secret.write_text("x")
        secret.chmod(0o644)
        program = attack(f"open({str(secret)!r})")
        assert _run(("mount", "landlock"), program) == b"BREACH\n"
        assert b"STOPPED" in _run(("mount",), program)
        assert b"STOPPED" in _run(("landlock",), program)


def test_without_seccomp_a_program_can_make_namespaces_of_its_own() -> None:
    program = attack(
        "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000): raise PermissionError"
    )
    assert _run(("seccomp",), program) == b"BREACH\n"
    assert b"STOPPED" in _run((), program)


def test_without_seccomp_shared_memory_escapes_the_limit_of_a_process() -> None:
    program = attack("import os; os.memfd_create('x')")
    assert _run(("seccomp",), program) == b"BREACH\n"


_EIGHT_CHILDREN = Program.script(
    "import os, time\n"
    "children = []\n"
    "for _ in range(8):\n"
    "    pid = os.fork()\n"
    "    if pid == 0:\n"
    "        block = bytearray(b'x' * (100 << 20))\n"
    "        time.sleep(0.5)\n"
    "        os.write(1, b'held ')\n"
    "        os._exit(0)\n"
    "    children.append(pid)\n"
    "for pid in children: os.waitpid(pid, 0)\n"
    "os.write(1, b'end')\n"
)


def test_without_cgroup_memory_and_accounting_many_children_pass_the_memory_limit() -> None:
    held = _run(("cgroup_memory", "accounting"), _EIGHT_CHILDREN)
    assert held.count(b"held") == 8


def test_without_cgroup_memory_the_accounting_supervisor_stops_them() -> None:
    config = SandboxConfig(workers=1, disable_layers=("cgroup_memory",))
    with Sandbox(config, RunLimits(cpu_s=10.0, memory_mib=192)) as sandbox:
        result = sandbox.run(_EIGHT_CHILDREN)
    assert result.cause == "memory", facts(result)


def test_without_pid_a_program_sees_the_numbers_of_host_processes() -> None:
    program = attack(f"import os; os.kill({os.getpid()}, 0)\n")
    without = _run(("pid", "user"), program)
    assert without == b"STOPPED PermissionError 1\n"  # it exists, and only the uid protects it
    assert _run((), program) == b"STOPPED ProcessLookupError 3\n"


def test_without_any_namespace_the_rest_still_runs_programs_and_leaves_no_process() -> None:
    program = Program.script(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    time.sleep(60)\n"
        "open('note', 'w').write('x')\n"
        "print(os.listdir('.'))\n"
    )
    namespaces = ("user", "pid", "net", "mount", "ipc", "uts")
    config = SandboxConfig(
        workers=1, minimum_layers=("landlock", "seccomp"), disable_layers=namespaces
    )
    with Sandbox(config) as sandbox:
        for _ in range(3):
            result = sandbox.run(program)
            assert result.stdout == b"['note']\n", facts(result)
            assert result.wall_s < 20
