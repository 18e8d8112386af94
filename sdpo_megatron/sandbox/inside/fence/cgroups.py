"""One cgroup per worker, used by each of its runs in turn: the total memory, CPU time and number of
processes of a whole tree.

Version 1 (separate hierarchies) and version 2 (where the parent is delegated to us). A worker's
runs never overlap, and a cgroup is emptied before each, so limits are written once and no directory
is made per run. A child puts itself in, through descriptors that were opened here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import time

from . import linux

_ROOT = "/sys/fs/cgroup"
_CONTROLLERS = {"cgroup_memory": "memory", "cgroup_pids": "pids", "cgroup_cpu": "cpuacct"}
_MEMORY_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}
# Swap: version 1 limits memory and swap together, version 2 swap alone. Absent without swap.
_SWAP_FILES = {1: "memory.memsw.limit_in_bytes", 2: "memory.swap.max"}
# Not cgroup.procs in version 1: for a thread that moves itself the kernel need not stop all forks
# of the machine, which where nobody has done so for some milliseconds takes ten of them.
_ENTRANCES = {1: "tasks", 2: "cgroup.procs"}
_CPU_FILES = {1: "cpuacct.usage", 2: "cpu.stat"}
_EMPTY_S = 5.0


class Cgroups:
    """The worker's directories, held open and locked while they are in use.

    Attributes:
        layers: "cgroup_memory", "cgroup_pids", "cgroup_cpu", whichever could be set up.
        reasons: Why the others could not, by layer.
        entrances: Descriptors: a process of one thread that writes "0" to each is in.

    Raises:
        OSError: From the constructor, when a process that an earlier worker left cannot be killed.
    """

    def __init__(
        self,
        name: str,
        root: str = _ROOT,
        own: str | None = None,
        without: tuple[str, ...] = (),
    ) -> None:
        self.layers: list[str] = []
        self.reasons: dict[str, str] = {}
        self.entrances: list[int] = []
        self._name = name
        self._folders: dict[str, int] = {}  # path: descriptor
        self._paths: dict[str, str] = {}  # layer: path
        self._limits: tuple[int, int] = (0, 0)
        self.version = 2 if os.path.exists(f"{root}/cgroup.controllers") else 1
        if own is None:
            with open("/proc/self/cgroup", encoding="ascii", errors="replace") as file:
                own = file.read()
        for layer, controller in _CONTROLLERS.items():
            if layer in without:
                continue
            try:
                self._add(layer, controller, root, own)
                self.layers.append(layer)
            except OSError as error:
                reason = f"cgroup v{self.version} {controller}: {error.strerror or error}"
                self.reasons[layer] = reason
        for path in self._folders.keys() - set(self._paths.values()):
            os.close(self._folders.pop(path))
            with contextlib.suppress(OSError):
                os.rmdir(path)
        for fd in self._folders.values():
            self.entrances.append(linux.open_at(fd, _ENTRANCES[self.version], os.O_WRONLY))
        self._cpu_account = self._reader("cgroup_cpu", _CPU_FILES[self.version])
        self._tasks = self._reader("cgroup_pids", "pids.current")
        self.empty()
        self._oom_kills = self._read_oom_kills()

    def _reader(self, layer: str, key: str) -> int | None:
        """A descriptor of a file that is read before or after each run."""
        if layer not in self.layers:
            return None
        with contextlib.suppress(FileNotFoundError):
            return linux.open_at(self._folders[self._paths[layer]], key)
        return None

    def _add(self, layer: str, controller: str, root: str, own: str) -> None:
        if self.version == 1:
            found = re.search(rf"^\d+:((?:[^:]*,)?{controller}(?:,[^:]*)?):(.*)$", own, re.M)
            mounted = [found.group(1)] if found else []
            folder = next(
                (f for f in (*mounted, controller) if os.path.isdir(f"{root}/{f}")), controller
            )
            parent = os.path.realpath(f"{root}/{folder}") + (found.group(2) if found else "")
        else:
            found = re.search(r"^0::(.*)$", own, re.M)
            parent = f"{root}{found.group(1) if found else ''}"
            if controller != "cpuacct":  # cpu.stat is in every cgroup
                with open(f"{parent}/cgroup.subtree_control", "w", encoding="ascii") as file:
                    file.write(f"+{controller}")
        parent = parent.rstrip("/")
        path = f"{parent}/{self._name}"
        if path not in self._folders:
            _remove_stale(parent)
            self._folders[path] = _hold(path)
        fd = self._folders[path]
        os.close(linux.open_at(fd, _ENTRANCES[self.version], os.O_WRONLY))
        for key in self._needed(layer):
            flags = os.O_RDONLY if layer == "cgroup_cpu" else os.O_WRONLY
            os.close(linux.open_at(fd, key, flags))
        self._paths[layer] = path

    def _needed(self, layer: str) -> tuple[str, ...]:
        if layer == "cgroup_pids":
            return ("pids.max",)
        if layer == "cgroup_cpu":
            return (_CPU_FILES[self.version],)
        return (_MEMORY_FILES[self.version],)

    def prepare(self, memory_mib: int, processes: int) -> None:
        """Empties the cgroups and sets the totals of the next run; writes only what changed.

        Raises:
            OSError: They cannot be emptied; nothing may then be run.
        """
        if self._tasks is None or int(os.pread(self._tasks, 64, 0)):
            self.empty()
        if self._limits == (memory_mib, processes):
            return
        if "cgroup_memory" in self.layers:
            self._limit_memory(str(memory_mib << 20))
        if "cgroup_pids" in self.layers:
            self._write("cgroup_pids", "pids.max", str(processes))
        self._limits = (memory_mib, processes)

    def _limit_memory(self, value: str) -> None:
        memory, swap = _MEMORY_FILES[self.version], _SWAP_FILES[self.version]
        if self.version == 2:
            self._write("cgroup_memory", memory, value)
            with contextlib.suppress(FileNotFoundError):
                self._write("cgroup_memory", swap, "0")
            return
        with contextlib.suppress(FileNotFoundError):  # never below the limit of memory alone
            self._write("cgroup_memory", swap, "-1")
        self._write("cgroup_memory", memory, value)
        with contextlib.suppress(FileNotFoundError):
            self._write("cgroup_memory", swap, value)

    def empty(self) -> None:
        """Kills whatever is inside, and waits until nothing is. Raises OSError after 5 s."""
        deadline = time.monotonic() + _EMPTY_S
        for fd in self._folders.values():
            while not _kill_all(fd):
                if time.monotonic() > deadline:
                    raise OSError(
                        f"the cgroup {self._name} still holds a process of an earlier run"
                    )
                time.sleep(0.002)

    def cpu_s(self) -> float:
        """CPU seconds of all processes that ever were inside."""
        if self._cpu_account is None:
            return 0.0
        said = os.pread(self._cpu_account, 4096, 0)
        if self.version == 1:
            return int(said) / 1e9
        found = re.search(rb"^usage_usec (\d+)$", said, re.M)
        return int(found.group(1)) / 1e6 if found else 0.0

    def killed_for_memory(self) -> bool:
        """Whether the kernel killed a process for memory since the last call."""
        before, self._oom_kills = self._oom_kills, self._read_oom_kills()
        return self._oom_kills > before

    def _read_oom_kills(self) -> int:
        if "cgroup_memory" not in self.layers:
            return 0
        key = "memory.oom_control" if self.version == 1 else "memory.events"
        found = re.search(r"^oom_kill (\d+)$", self._read("cgroup_memory", key), re.M)
        return int(found.group(1)) if found else 0

    def remove(self) -> None:
        """Removes the directories, once they are empty; what cannot be removed now is by the next
        sandbox."""
        with contextlib.suppress(OSError):
            self.empty()
        for fd in (*self.entrances, self._tasks, self._cpu_account):
            if fd is not None:
                os.close(fd)
        for path, fd in self._folders.items():
            with contextlib.suppress(OSError):
                os.rmdir(path)
            os.close(fd)
        self.entrances.clear()
        self._folders.clear()
        self.layers.clear()

    def _read(self, layer: str, key: str) -> str:
        return linux.read_at(self._folders[self._paths[layer]], key)

    def _write(self, layer: str, key: str, value: str) -> None:
        linux.write_at(self._folders[self._paths[layer]], key, value)


def _hold(path: str) -> int:
    """Makes a directory and opens it, locked as in use, whatever pid namespace one looks from."""
    for _ in range(100):
        os.makedirs(path, exist_ok=True)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # another sandbox took it for a leftover before it was locked
            continue
        fcntl.flock(fd, fcntl.LOCK_SH)
        if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
            return fd
        os.close(fd)
    raise OSError(f"{path} is removed again and again")


def _kill_all(fd: int) -> bool:
    """Whether the cgroup is empty; kills what is not."""
    # Opened anew each time: version 1 shows an open file's reader for a second what it showed.
    pids = linux.read_at(fd, "cgroup.procs").split()
    for pid in map(int, pids):
        if pid:  # 0: of a pid namespace that we cannot see into
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return not pids


def _remove_stale(parent: str) -> None:
    """Removes what a host that was killed together with its workers has left here: directories
    whose lock nobody holds any more, and the processes in them."""
    for entry in os.scandir(parent):
        if not re.fullmatch(r"sdpo-\d+-\d+", entry.name):
            continue
        with contextlib.suppress(OSError):
            fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for _ in range(100):
                    if _kill_all(fd):
                        break
                    time.sleep(0.002)
                os.rmdir(entry.path)
            finally:
                os.close(fd)
