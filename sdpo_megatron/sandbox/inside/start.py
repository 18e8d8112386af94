"""Entry of the sandbox's interpreter: one step after the other, each with an empty stack."""

from __future__ import annotations

import sys

from . import zygote
from .step import Step


def become(step: Step | None) -> None:
    """Runs steps until one has no next."""
    sys.argv, sys.orig_argv = [""], [""]
    while step is not None:
        step = step()


def main() -> None:
    """Descriptor 0 is the socket to the host."""
    sys.path.pop()  # only `inside` itself came from there
    become(zygote.main)
