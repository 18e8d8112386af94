"""One engine process: start within a bound, say what it is doing, stop it, leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from sdpo_megatron.errors import EngineStartError
from sdpo_megatron.ports import hold_port
from serving.command import engine_command, engine_environment
from serving.config import EngineConfig

Progress = Callable[[str], None]

GUARDIAN = Path(__file__).with_name("guardian.py")
_POLL_S = 0.1
_LOG_TAIL_LINES = 25
_LOG_LINE_LENGTH = 300  # SGLang prints all its settings in one line of 20,000
_PHASES = (  # a line of SGLang's log that holds the left text means the engine is at the right one
    ("Load weight begin", "loading weights"),
    ("Load weight end", "reserving the KV cache"),
    ("Memory pool end", "preparing to serve"),
    ("Uvicorn running", "ready"),
)
# SGLang's server says this and ends, but its scheduler keeps the process up for half a minute more.
_CANNOT_LISTEN = "error while attempting to bind on address"


class EngineProcess:
    """An SGLang server that we started.

    Attributes:
        url: Where it listens, e.g. http://127.0.0.1:31000.
        log_file: Its stdout and stderr; appended to over restarts.
    """

    def __init__(
        self,
        config: EngineConfig,
        model_dir: str | Path,
        log_dir: str | Path,
        *,
        index: int = 0,
        seed: int = 0,
    ):
        """`model_dir` is an HF checkpoint folder; nothing is started yet."""
        self.config = config
        self.model_dir = Path(model_dir)
        self.index = index
        self.seed = seed
        self.port = config.port + index if config.port else 0
        self.log_file = Path(log_dir) / f"engine-{index}.log"
        self._guardian: subprocess.Popen[bytes] | None = None
        self._held_port: socket.socket | None = None
        self._closed = False
        self._launching = threading.Lock()
        self._log_start = 0

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.config.host in ("0.0.0.0", "") else self.config.host
        return f"http://{host}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the engine's main process runs."""
        return self._guardian is not None and self._guardian.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the guardian, the root of everything that belongs to this engine."""
        assert self._guardian is not None, "the engine was not started"
        return self._guardian.pid

    def start(self, progress: Progress | None = None) -> None:
        """Launch and wait until it answers.

        Raises:
            EngineStartError: port in use, process ended, or `start_timeout_s` passed; ends with the
                last log lines.
        """
        self.launch(progress)
        self.wait_ready(progress)

    def launch(self, progress: Progress | None = None) -> None:
        """Start the process and return at once; several engines can come up side by side."""
        if not (self.model_dir / "config.json").is_file():
            raise EngineStartError(
                f"{self.model_dir} holds no config.json: give a Hugging Face checkpoint folder."
            )
        self._hold_port()
        command = engine_command(self.config, self.model_dir, self.port, self.seed)
        guard = [sys.executable, "-I", "-S", str(GUARDIAN), "--parent", str(os.getpid())]
        guard += ["--grace", str(self.config.stop_timeout_s), "--"]
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._launching, self.log_file.open("ab") as log:
            if self._closed:
                raise EngineStartError(f"engine {self.index} is closed")
            self._log_start = log.tell()
            self._guardian = subprocess.Popen(
                guard + command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=engine_environment(self.config, self.index),
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        self._launched_at = time.monotonic()
        _report(progress, f"engine {self.index}: importing SGLang")

    def wait_ready(self, progress: Progress | None = None) -> None:
        """Block until the launched engine answers; `progress` hears of each phase. Raises as
        `start`, after cleaning up."""
        told = ""
        try:
            while time.monotonic() - self._launched_at < self.config.start_timeout_s:
                said = self.log_tail(lines=1000)
                phase = next((phase for text, phase in reversed(_PHASES) if text in said), "")
                if _CANNOT_LISTEN in said:
                    raise EngineStartError(self._port_taken("something else listens there"))
                if phase and phase != told:
                    told = phase
                    if phase != "ready":
                        _report(progress, f"engine {self.index}: {phase}")
                if not self.alive:
                    raise EngineStartError(
                        self._explain(f"ended with status {self._status()} while starting")
                    )
                if phase == "ready" and _answers(self.url):
                    took = time.monotonic() - self._launched_at
                    _report(
                        progress, f"engine {self.index}: ready at {self.url} after {took:.0f} s"
                    )
                    return
                time.sleep(_POLL_S)
            raise EngineStartError(
                self._explain(
                    f"was not ready within start_timeout_s = {self.config.start_timeout_s:g} s "
                    f"(it was at: {told or 'importing SGLang'}); raise it if this machine is slow"
                )
            )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the engine and everything below it; does nothing when it is gone. Bounded by
        `stop_timeout_s` and 10 s more."""
        if self._held_port is not None:
            self._held_port.close()
        if self._guardian is None:
            return
        if self._guardian.poll() is None:
            self._guardian.send_signal(signal.SIGTERM)
        try:
            self._guardian.wait(timeout=self.config.stop_timeout_s + 10.0)
        except subprocess.TimeoutExpired:
            self._guardian.kill()  # the kernel then kills the engine: PR_SET_PDEATHSIG
            self._guardian.wait()

    def close(self) -> None:
        """Stop it for good: a restart that another thread has under way fails."""
        with self._launching:
            self._closed = True
        self.stop()

    def restart(self, progress: Progress | None = None) -> None:
        """Stop what is left of it and start it again, on the same port if that was configured."""
        self.stop()
        if not self.config.port:
            self.port = 0
        self.start(progress)

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """The last lines that it wrote since its last start, each cut to a readable length."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, log.tell() - 64_000))
                text = log.read().decode(errors="replace")
        except OSError:
            return "(no log)"
        tail = [line[:_LOG_LINE_LENGTH] for line in text.splitlines()[-lines:]]
        return "\n".join(tail) or "(the log is empty)"

    def _hold_port(self) -> None:
        """Take the configured port, or a free one, and keep it for the engine until `stop`."""
        try:
            self._held_port = hold_port(self.config.host, self.port)
        except OSError as error:
            raise EngineStartError(self._port_taken(str(error.strerror))) from error
        self.port = int(self._held_port.getsockname()[1])

    def _port_taken(self, reason: str) -> str:
        return (
            f"port {self.port} on {self.config.host} cannot be used for the engine: {reason}. Stop "
            "what listens there, or set rollout.engine.port (0 picks a free one) or "
            "rollout.engine.host."
        )

    def _status(self) -> int | None:
        return None if self._guardian is None else self._guardian.poll()

    def _explain(self, what: str) -> str:
        return (
            f"engine {self.index} {what}.\nLog: {self.log_file}; its last lines:\n{self.log_tail()}"
        )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/model_info", timeout=2.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _report(progress: Progress | None, message: str) -> None:
    if progress is not None:
        progress(message)
