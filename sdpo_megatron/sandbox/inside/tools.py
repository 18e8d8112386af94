"""What a worker has found and made once, for all its runs."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from .fence.cgroups import Cgroups


@dataclass
class Tools:
    """What a worker has for its runs.

    Attributes:
        layers: Names of the active layers.
        cgroups: Of this worker.
        proc_fd: The host's /proc.
        host_fd: A pidfd of the host.
        control: The socket to the host.
        link: The socket to the template.
        status: Where the template's children say that they are confined.
        template_pid: Never to be taken for a stray.
        block: First host uid of this worker's runs; 0 when they keep the worker's.
        folder: Where runs get a folder each; "" with a private /tmp, or where nothing can be
            written.
    """

    layers: tuple[str, ...]
    cgroups: Cgroups
    proc_fd: int
    host_fd: int
    control: socket.socket
    link: socket.socket
    status: socket.socket
    template_pid: int
    block: int
    folder: str
