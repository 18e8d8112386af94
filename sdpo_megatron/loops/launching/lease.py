"""One writer a run folder: a lease with a heartbeat, and a fencing token that only grows.

    RUN/lease/000003            held: touched every few seconds by the launcher that made it
    RUN/lease/000003.released   given back

The token is the number in the name; who makes the next file (exclusively, which NFS honours too)
holds the lease, and every older holder has lost it. Clocks of two machines are never compared: a
holder counts as dead when its file was not touched for `ttl_s` *while we watched*, or at once when
it was a process of this machine that is gone. A holder that could not touch its file for that long
(stopped, or cut off from the file system) gives up by itself, and every write of a run asks
`check` first, so two trainers never write one folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdpo_megatron.errors import LeaseLost, RunFolderInUse

VARIABLE = "SDPO_LEASE_TOKEN"
"""Environment variable by which a launcher hands its token to the ranks."""
TTL_S = 30.0
"""Seconds without a sign of life after which a holder counts as dead."""

_POLL_S = 0.5
_BEATS = 4  # signs of life within the time to live
_NAME = re.compile(r"(\d{6,})(\.released)?")


@dataclass(frozen=True)
class _Entry:
    """What lies in the lease folder under the highest token."""

    token: int
    path: Path
    released: bool
    touched_ns: int
    holder: str
    process: str


class Lease:
    """The right to write one run folder. `check` is safe from every thread.

    Attributes:
        token: Greater than that of every earlier holder.
        on_loss: Called once with the reason, from another thread, when the lease is lost.
    """

    def __init__(self, folder: Path, token: int) -> None:
        self._folder, self.token = folder, token
        self._path = folder / f"{token:06d}"
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None
        self._lost = ""
        self.on_loss: Callable[[str], None] = lambda _: None

    @classmethod
    def acquire(
        cls,
        run: Path,
        *,
        wait_s: float = 0.0,
        ttl_s: float = TTL_S,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Lease:
        """Take the lease of the run folder `run`, and keep it alive until `release`.

        Args:
            wait_s: Seconds to wait for a living holder. A dead one is waited out however small
                this is: up to `ttl_s` when it ran on another machine.
            ttl_s: See `TTL_S`.
            progress: Hears whom we wait for.

        Raises:
            RunFolderInUse: Somebody else holds it and lives; the message names the holder.
        """
        folder = run / "lease"
        folder.mkdir(parents=True, exist_ok=True)
        token = _claim(folder, wait_s, ttl_s, progress)
        lease = cls(folder, token)
        lease._beating = threading.Thread(
            target=lease._beat, args=(ttl_s,), name="lease", daemon=True
        )
        lease._beating.start()
        return lease

    @classmethod
    def inherited(cls, run: Path) -> Lease | None:
        """The lease that our launcher holds, for `check`; None where no launcher started us."""
        token = os.environ.get(VARIABLE)
        return cls(run / "lease", int(token)) if token else None

    def check(self) -> None:
        """Return while the lease is ours.

        Raises:
            LeaseLost: It is not; nothing may be written any more.
        """
        newest = _newest(self._folder)
        if not self._lost and (newest is None or newest.token != self.token):
            by = f"{newest.holder} has" if newest else "somebody removed"
            self._lost = f"{by} the lease of {self._folder.parent} now"
        if self._lost:
            raise LeaseLost(f"{self._lost}: this trainer stops without writing anything more")

    def release(self) -> None:
        """Give the lease back, where it is still ours; the next trainer need not wait.

        One that was inherited is the launcher's to give back.
        """
        if self._beating is None:
            return
        self._stop.set()
        self._beating.join()
        if not self._lost:
            with contextlib.suppress(OSError):  # a rename: it works on a full disk, too
                self._path.rename(self._path.with_name(f"{self._path.name}.released"))

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self, ttl_s: float) -> None:
        alive_at = time.monotonic()
        while not self._stop.wait(ttl_s / _BEATS):
            try:
                self.check()  # first: when we come late, somebody else may have it by now
                os.utime(self._path)
                alive_at = time.monotonic()
            except LeaseLost as error:
                self.on_loss(str(error))
                return
            except OSError as error:
                if time.monotonic() - alive_at > ttl_s:
                    self._lost = f"{self._path} could not be touched for {ttl_s:g} s ({error})"
                    self.on_loss(self._lost)
                    return


def _claim(folder: Path, wait_s: float, ttl_s: float, progress: Callable[[str], None]) -> int:
    began = time.monotonic()
    seen: tuple[int, int] | None = None  # token and time of the holder's last sign of life
    seen_at, signs, told = began, 0, False
    while True:
        entry, now = _newest(folder), time.monotonic()
        if entry is None or entry.released or _gone(entry):
            if _make(folder, 1 if entry is None else entry.token + 1):
                return 1 if entry is None else entry.token + 1
            continue
        if seen != (entry.token, entry.touched_ns):
            signs += seen is not None
            seen, seen_at = (entry.token, entry.touched_ns), now
        elif now - seen_at > ttl_s:
            if _make(folder, entry.token + 1):
                return entry.token + 1
            continue
        if (signs or _lives(entry)) and now - began >= wait_s:
            raise RunFolderInUse(
                f"{folder.parent} is being written by {entry.holder}. Wait for it or stop it, or "
                "choose another run.folder"
            )
        if not told:
            told = True
            progress(f"{folder.parent} is held by {entry.holder}: waiting for it to end")
        time.sleep(min(_POLL_S, ttl_s / 10))


def _make(folder: Path, token: int) -> bool:
    """Whether we are the one who made the file of this token."""
    path = folder / f"{token:06d}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(fd, "w") as file:
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        json.dump({"holder": holder, "process": _process(os.getpid())}, file)
    for older in folder.iterdir():
        found = _NAME.fullmatch(older.name)
        if found and int(found[1]) < token:
            older.unlink(missing_ok=True)
    return True


def _newest(folder: Path) -> _Entry | None:
    found = [match for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    if not found:
        return None
    name = max(found, key=lambda match: (int(match[1]), bool(match[2])))
    path = folder / name[0]
    try:
        touched = path.stat().st_mtime_ns
        said = json.loads(path.read_text() or "{}")  # empty: made a moment ago
    except (OSError, ValueError):  # renamed or removed meanwhile: look again
        return _Entry(int(name[1]), path, False, 0, "another trainer", "")
    return _Entry(
        int(name[1]),
        path,
        bool(name[2]),
        touched,
        str(said.get("holder", "another trainer")),
        str(said.get("process", "")),
    )


def _process(pid: int) -> str:
    """A name of a process that no other has: machine, pid namespace, pid, start. "" without /proc.

    A reboot changes the first, a pod of the same machine has another of the second.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}/{pid}/{start}"
    except OSError:
        return ""


def _here(entry: _Entry) -> int:
    """The holder's pid when its process is, or was, one that we could see; else 0."""
    ours, theirs = _process(os.getpid()).split("/"), entry.process.split("/")
    return int(theirs[2]) if len(theirs) == 4 and theirs[:2] == ours[:2] else 0


def _gone(entry: _Entry) -> bool:
    """Whether the holder was a process of this machine that does not run any more."""
    pid = _here(entry)
    return bool(pid) and _process(pid) != entry.process


def _lives(entry: _Entry) -> bool:
    pid = _here(entry)
    return bool(pid) and _process(pid) == entry.process
