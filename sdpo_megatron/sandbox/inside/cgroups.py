"""One cgroup per worker, used by each of its runs in turn: the total memory and the number of
processes of a whole tree.

Version 1 (separate hierarchies) and version 2 (where the parent is delegated to us). A worker's
runs never overlap, and all processes of a run are dead before the next, so limits are written once
and no directory is made per run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re

_ROOT = "/sys/fs/cgroup"


class Cgroups:
    """The worker's directories, held open to work after the host's file system is out of sight.

    Attributes:
        layers: "cgroup_memory" and "cgroup_pids", whichever could be set up.
        reasons: Why the others could not, by layer.
    """

    def __init__(self, name: str, root: str = _ROOT, own: str | None = None) -> None:
        self.layers: list[str] = []
        self.reasons: dict[str, str] = {}
        self._directories: dict[str, tuple[int, int, str]] = {}  # layer: (parent fd, own fd, name)
        self._limits: dict[str, str] = {}
        self._oom_kills = 0
        self.version = 2 if os.path.exists(f"{root}/cgroup.controllers") else 1
        if own is None:
            with open("/proc/self/cgroup", encoding="ascii", errors="replace") as file:
                own = file.read()
        for layer, controller in (("cgroup_memory", "memory"), ("cgroup_pids", "pids")):
            try:
                self._add(layer, controller, name, root, own)
                self.layers.append(layer)
            except OSError as error:
                self.reasons[layer] = (
                    f"cgroup v{self.version} {controller}: {error.strerror or error}"
                )
        self._oom_kills = self._read_oom_kills() if "cgroup_memory" in self.layers else 0

    def _add(self, layer: str, controller: str, name: str, root: str, own: str) -> None:
        if self.version == 1:
            found = re.search(rf"^\d+:(?:[^:]*,)?{controller}(?:,[^:]*)?:(.*)$", own, re.M)
            parent = f"{root}/{controller}{found.group(1) if found else ''}"
        else:
            found = re.search(r"^0::(.*)$", own, re.M)
            parent = f"{root}{found.group(1) if found else ''}"
            with open(f"{parent}/cgroup.subtree_control", "w", encoding="ascii") as file:
                file.write(f"+{controller}")
        _remove_stale(parent)
        os.makedirs(f"{parent}/{name}", exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        parent_fd, own_fd = os.open(parent, flags), os.open(f"{parent}/{name}", flags)
        fcntl.flock(own_fd, fcntl.LOCK_SH)  # in use, whatever pid namespace somebody looks from
        self._directories[layer] = (parent_fd, own_fd, name)
        for key in ("cgroup.procs", self._limit_file(layer)):
            os.close(os.open(key, os.O_WRONLY | os.O_CLOEXEC, dir_fd=own_fd))

    def _limit_file(self, layer: str) -> str:
        if layer == "cgroup_pids":
            return "pids.max"
        return "memory.limit_in_bytes" if self.version == 1 else "memory.max"

    def limit(self, memory_mib: int, processes: int) -> None:
        """Sets the totals of the next run; writes only what changed."""
        for layer, value in (
            ("cgroup_memory", str(memory_mib << 20)),
            ("cgroup_pids", str(processes)),
        ):
            if layer in self.layers and self._limits.get(layer) != value:
                self._write(layer, self._limit_file(layer), value)
                self._limits[layer] = value

    def add(self, pid: int) -> None:
        """Moves a process that has not yet run anything into the worker's cgroups."""
        for layer in self.layers:
            self._write(layer, "cgroup.procs", str(pid))

    def killed_for_memory(self) -> bool:
        """Whether the kernel killed a process for memory since the last call."""
        if "cgroup_memory" not in self.layers:
            return False
        before, self._oom_kills = self._oom_kills, self._read_oom_kills()
        return self._oom_kills > before

    def _read_oom_kills(self) -> int:
        text = self._read(
            "cgroup_memory", "memory.oom_control" if self.version == 1 else "memory.events"
        )
        found = re.search(r"^oom_kill (\d+)$", text, re.M)
        return int(found.group(1)) if found else 0

    def remove(self) -> None:
        """Removes the directories.

        A cgroup that still holds a dying process stays and is reused by name.
        """
        for parent_fd, own_fd, name in self._directories.values():
            os.close(own_fd)
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=parent_fd)
            os.close(parent_fd)
        self._directories.clear()
        self.layers.clear()

    def _read(self, layer: str, key: str) -> str:
        fd = os.open(key, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directories[layer][1])
        try:
            return os.read(fd, 65536).decode("ascii", "replace")
        finally:
            os.close(fd)

    def _write(self, layer: str, key: str, value: str) -> None:
        fd = os.open(key, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._directories[layer][1])
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def _remove_stale(parent: str) -> None:
    """Removes what a host that was killed together with its zygote has left here: directories
    whose lock nobody holds any more.
    """
    for entry in os.scandir(parent):
        found = re.fullmatch(r"sdpo-(\d+)-\d+", entry.name)
        if found and not os.path.exists(f"/proc/{found.group(1)}"):
            with contextlib.suppress(OSError):
                fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.rmdir(entry.path)
                finally:
                    os.close(fd)
