"""Cgroups of both versions, on folders that look like a mounted hierarchy."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdpo_megatron.sandbox.inside.fence.cgroups import Cgroups


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("memory pids")
    own = tmp_path / "pod" / "sdpo-1-0"
    own.mkdir(parents=True)
    for name in ("cgroup.procs", "memory.max", "memory.swap.max", "pids.max"):
        (own / name).touch()
    (own / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\n")
    (own / "memory.events").write_text("low 0\noom 3\noom_kill 0\n")
    return tmp_path


def test_version_2(version_2: Path) -> None:
    cgroups = Cgroups("sdpo-1-0", str(version_2), own="0::/pod\n")
    own = version_2 / "pod" / "sdpo-1-0"
    assert (cgroups.version, cgroups.layers) == (2, ["cgroup_memory", "cgroup_pids", "cgroup_cpu"])
    assert (version_2 / "pod" / "cgroup.subtree_control").read_text() == "+pids"
    cgroups.prepare(64, 5)
    assert (own / "memory.max").read_text() == str(64 << 20)
    assert (own / "pids.max").read_text() == "5"
    assert (own / "memory.swap.max").read_text() == "0"
    os.write(cgroups.entrances[0], b"0")
    assert [(own / "cgroup.procs").read_text(), len(cgroups.entrances)] == ["0", 1]
    assert cgroups.cpu_s() == 1.5
    assert not cgroups.killed_for_memory()
    (own / "memory.events").write_text("low 0\noom 4\noom_kill 1\n")
    assert cgroups.killed_for_memory()
    assert not cgroups.killed_for_memory()  # told once


def test_version_1_follows_its_own_path(tmp_path: Path) -> None:
    own = tmp_path / "memory" / "slice" / "sdpo-1-3"
    own.mkdir(parents=True)
    for name in ("tasks", "cgroup.procs", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        (own / name).touch()
    (own / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    cgroups = Cgroups("sdpo-1-3", str(tmp_path), own="4:cpu,memory:/slice\n2:pids:/\n")
    assert (cgroups.version, cgroups.layers) == (1, ["cgroup_memory"])
    assert cgroups.reasons["cgroup_pids"].startswith("cgroup v1 pids: ")
    cgroups.prepare(1, 1)
    assert (own / "memory.limit_in_bytes").read_text() == str(1 << 20)
    assert (own / "memory.memsw.limit_in_bytes").read_text() == str(1 << 20)
    assert not cgroups.killed_for_memory()  # two kills before our time
    os.write(cgroups.entrances[0], b"0")
    assert (own / "tasks").read_text() == "0"


_ROOT = Path("/sys/fs/cgroup")


@pytest.fixture
def real_name() -> Iterator[str]:
    """The name of cgroups in this machine's own hierarchies."""
    name = f"sdpo-{os.getpid()}-9999"
    try:
        probe = Cgroups(name)
    except OSError:
        pytest.skip("no cgroup can be made here")
    layers = probe.layers[:]
    probe.remove()
    if not layers:
        pytest.skip(f"no cgroup can be made here: {probe.reasons}")
    yield name
    assert not list(_ROOT.glob(f"*/**/{name}"))


def _sleeper(entrances: list[int]) -> int:
    pid = os.fork()
    if pid == 0:
        for fd in entrances:
            os.write(fd, b"0")
        os.closerange(3, 1024)  # among them the lock
        time.sleep(60)
        os._exit(0)
    time.sleep(0.2)
    return pid


def test_a_cgroup_is_emptied_before_it_is_used_again(real_name: str) -> None:
    """What a run has left, however it came about, is killed before the next."""
    cgroups = Cgroups(real_name)
    pid = _sleeper(cgroups.entrances)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    reaper = threading.Thread(target=os.waitpid, args=(pid, 0))
    reaper.start()
    cgroups.prepare(64, 5)
    reaper.join(5)
    assert not reaper.is_alive()
    cgroups.remove()


def test_what_a_dead_host_left_is_removed_with_its_processes(real_name: str) -> None:
    """The lock tells: nobody holds that of a host which was killed with all its workers."""
    leftover = Cgroups(real_name.replace("9999", "9998"))
    pid = _sleeper(leftover.entrances)
    held = [*leftover.entrances, *leftover._folders.values()]
    folders = list(leftover._folders)
    reaper = threading.Thread(target=os.waitpid, args=(pid, 0))
    reaper.start()
    other = Cgroups(real_name)  # the lock is held: it stays
    assert all(map(os.path.exists, folders))
    assert reaper.is_alive()
    other.remove()
    for fd in held:
        os.close(fd)
    Cgroups(real_name).remove()
    reaper.join(5)
    assert not reaper.is_alive()
    assert not any(map(os.path.exists, folders))


def test_without_a_hierarchy_the_reasons_are_told(tmp_path: Path) -> None:
    cgroups = Cgroups("sdpo-1-0", str(tmp_path), own="0::/\n")
    assert cgroups.layers == []
    assert set(cgroups.reasons) == {"cgroup_memory", "cgroup_pids", "cgroup_cpu"}
    cgroups.prepare(1, 1)
    assert (cgroups.entrances, cgroups.cpu_s()) == ([], 0.0)
    assert not cgroups.killed_for_memory()
    cgroups.remove()
