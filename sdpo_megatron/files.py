"""Files and folders that are there whole or not at all, whatever ends the process and whenever.

Both are written under a hidden name beside their own, synced, and renamed. What a kill leaves is
such a hidden name: nobody reads it, and `clear_drafts` removes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["clear_drafts", "draft_of", "put_in_place", "sync_folder", "whole_folder", "write_whole"]


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o666) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new.

    Text is written as UTF-8. On the disk when this returns.

    Args:
        mode: Of the file; the process's umask is taken off.

    Raises:
        OSError: A full disk, say; what was there is untouched.
    """
    draft = draft_of(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `path` at the end of the block; gone when the
    block raises.
    """
    draft = draft_of(path)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        put_in_place(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def draft_of(path: Path) -> Path:
    """The hidden name beside `path` under which this process writes it."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def put_in_place(draft: Path, path: Path) -> None:
    """Rename the finished folder `draft` to `path`, which is deleted first where it exists."""
    shutil.rmtree(path, ignore_errors=True)
    draft.rename(path)
    sync_folder(path.parent)


def clear_drafts(folder: Path) -> None:
    """Remove the drafts of any process that was killed while it wrote below `folder`."""
    for left in folder.glob(".*.partial-*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk: they, too, survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
