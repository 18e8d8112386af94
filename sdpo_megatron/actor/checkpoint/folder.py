"""Folders of checkpoints: their names, whether they are whole, and the space that one needs."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

from sdpo_megatron.files import write_whole

COMMON = "common.pt"
"""The part that is no weight: counters, random state and the like."""
_NAME = re.compile(r"step-(\d{6,})$")
_SEAL = "complete.json"


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lives."""
    return root / f"step-{step:06d}"


def is_whole(folder: Path) -> bool:
    """Whether every file is there in the size it was written with."""
    try:
        sizes = json.loads((folder / _SEAL).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def whole_checkpoints(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every whole checkpoint, oldest first; skips torn ones and leftovers."""
    if not root.is_dir():
        return []
    found = [(int(m[1]), path) for path in root.iterdir() if (m := _NAME.search(path.name))]
    return sorted((step, path) for step, path in found if is_whole(path))


def clear_leftovers(root: Path) -> None:
    """Remove what a kill left half written, of any step."""
    for left in root.glob("step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def keep_newest(root: Path, number: int) -> None:
    """Remove all whole checkpoints but the newest `number`."""
    for _, old in whole_checkpoints(root)[:-number]:
        shutil.rmtree(old, ignore_errors=True)


def need_space(root: Path, needed: int) -> None:
    """OSError when the file system cannot hold so many bytes, before one is written."""
    free = shutil.disk_usage(root).free
    if free < needed * 1.02:
        raise OSError(
            errno.ENOSPC,
            f"No space left on device: {needed / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB "
            "free",
        )


def seal(folder: Path) -> int:
    """Write the list of files that makes the checkpoint whole; returns their bytes together.

    Every rank has synced what it wrote before; left is what rank 0 wrote beside the tensors.
    """
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    with (folder / COMMON).open("rb") as file:
        os.fsync(file.fileno())
    write_whole(folder / _SEAL, json.dumps({"files": files}, indent=1))
    return sum(files.values())
