"""Blocks of host uids: no two workers of a host have one in common, whichever sandbox they are of.

A block is held by the name of an abstract socket: taken at once or not at all, free again when its
holder dies, however it dies, and leaving nothing behind.
"""

from __future__ import annotations

import errno
import os
import socket

from . import linux

BLOCK = 64  # uids per worker
_MAX_BLOCKS = 4096


def hold_block(first_uid: int) -> tuple[int, socket.socket]:
    """The first free block from `first_uid` up: its first uid, and what holds it while it is open.

    Raises:
        OSError: All blocks are held.
    """
    for number in range(_MAX_BLOCKS):
        uid = first_uid + number * BLOCK
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            holder.bind(f"\0sdpo-uids-{uid}")
        except OSError as error:
            holder.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        return uid, holder
    raise OSError(f"all {_MAX_BLOCKS} blocks of uids from {first_uid} up are in use")


def can_become(uid: int) -> str:
    """ "" when a child of this process could take `uid` for good (it was tried), else why not."""
    if not {linux.CAP_SETUID, linux.CAP_SETGID} <= linux.capabilities():
        return "this process lacks CAP_SETUID and CAP_SETGID"
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except BaseException as error:
            os.write(write_end, f"uid {uid}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(pid, 0)
    try:
        return os.read(read_end, 4096).decode("utf-8", "replace")
    finally:
        os.close(read_end)
