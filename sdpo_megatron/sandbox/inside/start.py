"""Becoming another process without keeping anything of the old one.

A zygote becomes workers by forking, a worker a template, a template an attempt or a judge. Each
returns what it becomes, all the way up, before that begins: no frame, and no object that only a
frame held, is left for a hostile program to walk over.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

# Returns the next step, or None at the end.
Step = Callable[[], Any]


def become(step: Step | None) -> None:
    """Runs steps until one has no next."""
    sys.argv, sys.orig_argv = [""], [""]
    while step is not None:
        step = step()


def main() -> None:
    """Entry of the sandbox's interpreter; descriptor 0 is the socket to the host."""
    sys.path.pop()  # only `inside` itself came from there
    from . import zygote

    become(zygote.main)
