"""A template plays both roles a few times before it is fenced, with a program and a test of ours.

What an interpreter learns at first use (where methods are, which machine instructions fit, where
symbols of libraries lie) it then has learnt for all clones. One that had to learn it by itself
would copy another hundred pages.
"""

from __future__ import annotations

import marshal
import os
import random
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from .fence.confine import CHANNEL_FD, RPC_FD
from .plain_data import MARSHAL_VERSION, encode
from .verdict import attempt, judge

_ROUNDS = 12  # CPython 3.11 specialises a function's code at its eighth call
_Role = tuple[Callable[[], None], dict[str, Any]]
_PROGRAM = "def f(x):\n    return [x]\n"
_ATTEMPT: dict[str, Any] = {
    "mode": "serve",
    "prelude": "",
    "readings": [_PROGRAM],
    "continues": "",
    "entry": "f",
    "args": encode((1,)),
    "answer_bytes": 1 << 10,
}
_SCRIPT = _ATTEMPT | {"mode": "script", "entry": ""}
_CALL = _ATTEMPT | {"mode": "call"}
_JUDGE: dict[str, Any] = {
    "nonce": "0",
    "setup": ["import math"],
    "tests": [[0, "assert candidate(1) == [1]"], [1, "assert candidate(2) == [2]"]],
    "entry": "f",
    "answer_bytes": 1 << 10,
    "shown": [0],
    "stop_at_failure": True,
    "rehearse": False,
    "text_limit": 400,
}


def practise() -> None:
    """Plays scripts, calls, and an attempt and its judge by turns with a helper.

    Takes descriptors 3 and 4, which must be in use, and gives them back. Raises OSError.
    """
    before = {fd: os.dup(fd) for fd in (CHANNEL_FD, RPC_FD)}
    main, argv = sys.modules["__main__"], sys.argv
    for job in (_SCRIPT, _CALL):
        for _ in range(_ROUNDS):
            _play(attempt.main, job)
    _play_together((attempt.main, _ATTEMPT), (judge.main, _JUDGE))
    _play_together((judge.main, _JUDGE), (attempt.main, _ATTEMPT))
    sys.modules["__main__"], sys.argv = main, argv
    sys.modules.pop("attempt", None)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the judge ignores it
    random.seed()  # the judge has set it
    for fd, copy in before.items():
        os.dup2(copy, fd, inheritable=False)
        os.close(copy)


def _play_together(ours: _Role, theirs: _Role) -> None:
    """One role here, the other in a helper, both several times."""
    channels = [socket.socketpair() for _ in range(_ROUNDS)]
    helper = os.fork()
    side, role = (1, theirs) if helper == 0 else (0, ours)
    try:
        for pair in channels:
            os.dup2(pair[side].fileno(), RPC_FD, inheritable=False)
            for end in pair:
                end.close()
            _play(*role)
            os.dup2(CHANNEL_FD, RPC_FD, inheritable=False)  # hangs up
    finally:
        if helper == 0:
            os._exit(0)
    os.waitpid(helper, 0)


def _play(main: Callable[[], None], job: dict[str, Any]) -> None:
    """One run of a role; what it says is not read."""
    host, own = socket.socketpair()
    with host, own:
        os.dup2(own.fileno(), CHANNEL_FD, inheritable=False)
        payload = marshal.dumps(job, MARSHAL_VERSION)
        host.sendall(struct.pack(">I", len(payload)) + payload)
        main()
