"""The sandbox as the rest of the project sees it: a pool of workers behind a thread-safe `run`."""

from __future__ import annotations

import itertools
import queue
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from sdpo_megatron.cores import usable_cores
from sdpo_megatron.errors import ConfigError, SandboxRefused, VerifierUnavailable

from .config import LAYERS, PUBLIC_PACKAGES, RunLimits, SandboxConfig
from .inside.messages import pack, unpack
from .program import Program, RunResult
from .worker_link import WorkerLink

_START_S = 60.0
# numpy's library would start a thread for each CPU when it is imported.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}
_STOP_S = 12.0
# Tells the sandboxes of one process apart, in the names of their cgroups.
_numbers = itertools.count()


class Sandbox:
    """Runs untrusted programs, up to `config.workers` at once, from any thread.

        with Sandbox(SandboxConfig()) as sandbox:
            result = sandbox.run(Program.script("print(1)"))

    Raises:
        SandboxRefused: From `start`, when a layer in `minimum_layers` does not work here.
        VerifierUnavailable: From `start` and `run`, when the machinery fails. Never the program's
            doing: try again.
    """

    def __init__(
        self, config: SandboxConfig | None = None, limits: RunLimits | None = None
    ) -> None:
        """`limits` bound the programs that bring none of their own."""
        self.config = config or SandboxConfig()
        self.limits = limits or RunLimits()
        if not self.config.workers:
            self.config = replace(self.config, workers=usable_cores())
        self._number = next(_numbers)
        self.layers: tuple[str, ...] = ()
        self.missing: dict[str, str] = {}
        self._idle: queue.LifoQueue[WorkerLink | None] = queue.LifoQueue()
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._indices: dict[int, int] = {}  # worker pid: its index
        self._links: set[WorkerLink] = set()

    def start(self) -> Sandbox:
        """Starts the zygote and the workers; idempotent. `run` does it when nobody has."""
        with self._lock:
            if self._closed:
                raise VerifierUnavailable("the sandbox is closed")
            if self._zygote is not None:
                return self
            self._start_zygote()
            try:
                for index in range(self.config.workers):
                    self._idle.put(self._start_worker(index))
            except BaseException:
                self._stop()
                raise
        return self

    def run(self, program: Program) -> RunResult:
        """Runs one program and returns how it ended; waits for a free worker."""
        self.start()
        worker = self._idle.get()
        if worker is None:  # closed meanwhile: wake the next waiter too
            self._idle.put(None)
            raise VerifierUnavailable("the sandbox is closed")
        try:
            result = worker.run(program)
        except BaseException:
            self._replace(worker)
            raise
        self._idle.put(worker)
        return result

    def close(self) -> None:
        """Ends all workers and what they run. Runs in other threads raise VerifierUnavailable."""
        with self._lock:
            self._closed = True
            self._stop()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _replace(self, worker: WorkerLink) -> None:
        """Replaces a failed worker by a fresh one, restarting the zygote when that is gone too."""
        worker.close(kill=True)
        with self._lock:
            self._links.discard(worker)
            if self._zygote is None:
                self._idle.put(None)
                return
            index = self._indices.pop(worker.pid)
            for last_try in (False, True):
                try:
                    self._idle.put(self._start_worker(index))
                    return
                except VerifierUnavailable:
                    if last_try:
                        self._idle.put(
                            worker
                        )  # its next run fails at once, and comes back here to try again
                        self._indices[worker.pid] = index
                    else:
                        self._stop_zygote()
                        self._start_zygote()

    def _start_zygote(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        folder = str(Path(__file__).parent)
        code = f"import sys; sys.path.append({folder!r}); from inside.start import main; main()"
        python = self.config.python or sys.executable
        try:
            self._zygote = subprocess.Popen(
                [python, "-s", "-S", "-P", "-B", "-c", code],
                env=_ENVIRONMENT,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise VerifierUnavailable(
                f"cannot start the sandbox's interpreter {python}: {error}"
            ) from error
        finally:
            theirs.close()
        self._control = ours
        ours.settimeout(_START_S)
        try:
            ours.send(pack(self._settings()))
            if not ours.recv(4096):
                raise OSError("it ended at once")
        except OSError as error:
            words = self._last_words()
            self._stop_zygote()
            raise VerifierUnavailable(
                f"the sandbox's zygote did not start: {error}\n{words}"
            ) from error

    def _last_words(self) -> str:
        zygote = self._zygote
        if zygote is None or zygote.stderr is None:
            return ""
        zygote.kill()
        return zygote.stderr.read().decode("utf-8", "replace")[-2000:]

    def _settings(self) -> dict[str, Any]:
        packages = _installed(self.config.packages)
        return {
            "packages": list(packages),
            "package_path": _package_path(packages),
            "disable": list(self.config.disable_layers),
            "first_uid": self.config.first_uid,
            "sandbox": self._number,
        }

    def _start_worker(self, index: int) -> WorkerLink:
        assert self._control is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_START_S)
        try:
            with theirs:
                socket.send_fds(self._control, [pack({"worker_index": index})], [theirs.fileno()])
            hello = unpack(ours.recv(65536) or pack({"error": "it ended at once"}))
        except OSError as error:
            ours.close()
            raise VerifierUnavailable(f"cannot start a sandbox worker: {error}") from error
        if "error" in hello:
            ours.close()
            raise VerifierUnavailable(f"a sandbox worker did not start: {hello['error']}")
        worker = WorkerLink(ours, hello, self.config, self.limits)
        self._check(worker)
        self._indices[worker.pid] = index
        self._links.add(worker)
        return worker

    def _check(self, worker: WorkerLink) -> None:
        lacking = [name for name in self.config.minimum_layers if name not in worker.layers]
        if lacking:
            worker.close()
            reasons = "; ".join(
                f"{name}: {worker.missing.get(name, 'not available')}" for name in lacking
            )
            raise SandboxRefused(
                f"isolation below the configured minimum, nothing was run. Missing {reasons}. "
                f"Active: {', '.join(worker.layers)}. Run where these work, or lower "
                "sandbox.minimum_layers knowingly."
            )
        self.layers, self.missing = worker.layers, worker.missing

    def _stop(self) -> None:
        for link in self._links:
            link.hang_up()
        self._links.clear()
        while True:
            try:
                worker = self._idle.get_nowait()
            except queue.Empty:
                break
            if worker is not None:
                worker.close()
        self._indices.clear()
        self._stop_zygote()
        self._idle.put(None)

    def _stop_zygote(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._zygote is not None:
            if self._zygote.stderr is not None:
                self._zygote.stderr.close()
            try:  # it goes when its socket closes, after its workers
                self._zygote.wait(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                self._zygote.kill()
                self._zygote.wait()
            self._zygote = None


def _installed(packages: tuple[str, ...]) -> tuple[str, ...]:
    """`packages`, of the public environment those that are installed here."""
    return tuple(name for name in packages if name not in PUBLIC_PACKAGES or find_spec(name))


def _package_path(packages: tuple[str, ...]) -> str:
    """The folder that holds all the named packages."""
    folders = set()
    for name in packages:
        spec = find_spec(name)
        if spec is None or not spec.origin:
            raise ConfigError(f"sandbox.packages names {name!r}, which is not installed")
        path = Path(spec.origin)
        folders.add(str(path.parent.parent if path.name.startswith("__init__.") else path.parent))
    if len(folders) > 1:
        raise ConfigError(
            f"sandbox.packages lie in several folders ({sorted(folders)}); they must share one"
        )
    return folders.pop() if folders else ""


def detect_layers() -> dict[str, bool | str]:
    """Every known isolation layer: True where it works on this machine, else the reason why not."""
    with Sandbox(SandboxConfig(workers=1, minimum_layers=())) as sandbox:
        return {
            name: name in sandbox.layers or sandbox.missing.get(name, "not available")
            for name in LAYERS
        }
