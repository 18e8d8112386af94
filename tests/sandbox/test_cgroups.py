"""Cgroups of both versions, on folders that look like a mounted hierarchy."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpo_megatron.sandbox.inside.cgroups import Cgroups


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("memory pids")
    own = tmp_path / "pod" / "sdpo-1-0"
    own.mkdir(parents=True)
    for name in ("cgroup.procs", "memory.max", "pids.max"):
        (own / name).touch()
    (own / "memory.events").write_text("low 0\noom 3\noom_kill 0\n")
    return tmp_path


def test_version_2(version_2: Path) -> None:
    cgroups = Cgroups("sdpo-1-0", str(version_2), own="0::/pod\n")
    own = version_2 / "pod" / "sdpo-1-0"
    assert (cgroups.version, cgroups.layers) == (2, ["cgroup_memory", "cgroup_pids"])
    assert (version_2 / "pod" / "cgroup.subtree_control").read_text() == "+pids"
    cgroups.limit(64, 5)
    cgroups.add(4711)
    assert (own / "memory.max").read_text() == str(64 << 20)
    assert (own / "pids.max").read_text() == "5"
    assert (own / "cgroup.procs").read_text() == "4711"
    assert not cgroups.killed_for_memory()
    (own / "memory.events").write_text("low 0\noom 4\noom_kill 1\n")
    assert cgroups.killed_for_memory()
    assert not cgroups.killed_for_memory()  # told once


def test_version_1_follows_its_own_path(tmp_path: Path) -> None:
    own = tmp_path / "memory" / "slice" / "sdpo-1-3"
    own.mkdir(parents=True)
    for name in ("cgroup.procs", "memory.limit_in_bytes"):
        (own / name).touch()
    (own / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    cgroups = Cgroups("sdpo-1-3", str(tmp_path), own="4:cpu,memory:/slice\n2:pids:/\n")
    assert (cgroups.version, cgroups.layers) == (1, ["cgroup_memory"])
    assert cgroups.reasons["cgroup_pids"].startswith("cgroup v1 pids: ")
    cgroups.limit(1, 1)
    assert (own / "memory.limit_in_bytes").read_text() == str(1 << 20)
    assert not cgroups.killed_for_memory()  # two kills before our time


def test_what_a_dead_host_left_is_removed(version_2: Path) -> None:
    stale, alive = version_2 / "pod" / "sdpo-999999999-0", version_2 / "pod" / "sdpo-1-7"
    stale.mkdir()
    alive.mkdir()
    Cgroups("sdpo-1-0", str(version_2), own="0::/pod\n")
    assert not stale.exists()
    assert alive.exists()


def test_without_a_hierarchy_the_reasons_are_told(tmp_path: Path) -> None:
    cgroups = Cgroups("sdpo-1-0", str(tmp_path), own="0::/\n")
    assert cgroups.layers == []
    assert set(cgroups.reasons) == {"cgroup_memory", "cgroup_pids"}
    cgroups.limit(1, 1)
    cgroups.add(1)
    assert not cgroups.killed_for_memory()
    cgroups.remove()
