"""Where runs may write when there is no mount namespace: a folder per worker, locked while in use.

Whoever comes next removes what a killed worker has left. No attempt can hold the lock: seccomp
refuses flock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

_PREFIX = "sdpo-sandbox-"
_OTHERS = ("/dev/shm", "/run/shm")  # writable in most pods, also with a read-only root


def hold_folder() -> tuple[str, int] | None:
    """A new folder that others may pass through, and the descriptor that holds it; None where
    nothing can be written at all."""
    parent = _writable_parent()
    if parent is None:
        return None
    _remove_stale(parent)
    import tempfile  # here: see `remove`

    path = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    fd = _open(path)
    fcntl.flock(fd, fcntl.LOCK_SH)
    os.chmod(path, 0o711)
    return path, fd


def release(path: str, fd: int) -> None:
    """Removes a folder that `hold_folder` made."""
    remove(path)
    os.close(fd)


def remove(path: str) -> None:
    """Removes a folder with all that is in it, as far as that is possible."""
    import shutil  # here, since it loads libraries that each clone of a template would copy

    shutil.rmtree(path, ignore_errors=True)


def _writable_parent() -> str | None:
    import tempfile

    with contextlib.suppress(FileNotFoundError):
        return tempfile.gettempdir()
    return next((path for path in _OTHERS if os.access(path, os.W_OK | os.X_OK)), None)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _remove_stale(parent: str) -> None:
    """Only what is ours by owner, and that nobody holds. A folder that is just being made is
    seen without its lock for a moment: it is empty, and still has the mode of a new one."""
    for entry in os.scandir(parent):
        if not entry.name.startswith(_PREFIX):
            continue
        with contextlib.suppress(OSError):
            fd = _open(entry.path)
            try:
                found = os.fstat(fd)
                if found.st_uid != os.geteuid() or found.st_mode & 0o777 != 0o711:
                    continue
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(entry.path)
            finally:
                os.close(fd)
