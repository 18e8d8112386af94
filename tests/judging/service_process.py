"""A verifier service as its users run it: a process of its own, on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

TOKEN = "a-token-of-the-tests"
START_S = 180.0  # a busy machine


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class ServiceProcess:
    """`sdpo verify serve` on `port`; started by `start`, which waits until it is ready."""

    def __init__(self, port: int, log: Path, *arguments: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port, self._log, self._arguments = port, log, arguments
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "sdpo_megatron.cli", "verify", "serve"]
        command += ["host=127.0.0.1", f"port={self._port}", *self._arguments]
        path = os.pathsep.join(p for p in [os.getcwd(), os.environ.get("PYTHONPATH", "")] if p)
        environment = {**os.environ, "SDPO_VERIFIER_TOKEN": TOKEN, "PYTHONPATH": path}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while not self._ready():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, f"not ready in {START_S} s: {self._log.read_text()}"
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running_service(
    log: Path, *arguments: str, port: int | None = None
) -> Iterator[ServiceProcess]:
    service = ServiceProcess(port or free_port(), log, *arguments)
    service.start()
    try:
        yield service
    finally:
        service.kill()
