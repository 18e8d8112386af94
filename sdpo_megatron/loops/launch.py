"""`sdpo train` on one machine: starts the trainer ranks, watches them, and ends them together.

The environment of a rank is torchrun's (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), so
on a cluster torchrun starts the same module: ``torchrun ... -m sdpo_megatron.loops.rank
RUN_FOLDER``. Here each rank also gets a parent-death signal: however this process goes, kill -9
included, no rank is left, and rank 0 takes its engines with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.exit_codes import DONE, FAILED, STOPPED, USER_ERROR
from sdpo_megatron.loops.lease import VARIABLE, Lease
from sdpo_megatron.loops.rank import COMPLAINT_END, COMPLAINTS_FD
from sdpo_megatron.loops.stop import SIGNALS
from sdpo_megatron.observability.run_folder import RunFolder
from sdpo_megatron.ports import hold_port

GRACE_S = 10.0
"""Seconds that rank 0 gets to leave by itself when another one has failed."""
ORDERLY = (DONE, STOPPED)
_PR_SET_PDEATHSIG = 1
_STOPPING = "sdpo: stopping with a checkpoint; once more to stop at once"


def launch(config: TrainConfig, folder: RunFolder, lease: Lease) -> int:
    """Run all ranks to the end; returns the exit code (see `exit_codes`).

    SIGTERM and SIGINT are handed to the ranks, which checkpoint and leave; a second one ends the
    run at once. So does the loss of `lease`, the right to write the run folder.
    """
    world = config.parallel.model_ranks * config.run.data_parallel
    complaints, complain = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    meeting_point = hold_port("127.0.0.1")
    port = int(meeting_point.getsockname()[1])
    os.environ[VARIABLE] = str(lease.token)
    ranks = [_start_rank(rank, world, config, folder, port, complain) for rank in range(world)]
    os.close(complain)
    lease.on_loss = lambda _: _signal_all(ranks, signal.SIGKILL)
    asked = 0

    def hand_down(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            _signal_all(ranks, signal.SIGKILL)
        else:
            _signal_all(ranks, signal.SIGTERM)
            print(_STOPPING, file=sys.stderr, flush=True)

    previous = {number: signal.signal(number, hand_down) for number in SIGNALS}
    try:
        code = _watch(ranks)
    finally:
        _end(ranks)
        meeting_point.close()
        if sys.stdout.isatty():  # a rank that was killed while drawing left the cursor hidden
            print("\x1b[?25h", end="", flush=True)
        for number, handler in previous.items():
            signal.signal(number, handler)
    with os.fdopen(complaints, "rb", buffering=0) as pipe:
        said = pipe.read(1 << 16) or b""
    lease.check()
    if asked > 1:
        print(
            f"sdpo: stopped at once; to go on: sdpo train --resume {folder.path}", file=sys.stderr
        )
    elif code not in ORDERLY:
        print(_failure(said, folder, ranks), file=sys.stderr)
    return code


def _start_rank(
    rank: int, world: int, config: TrainConfig, folder: RunFolder, port: int, complain: int
) -> subprocess.Popen[bytes]:
    threads = config.run.threads_per_rank or max(1, (os.cpu_count() or 1) // world)
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "1000",  # idle threads sleep soon: the engine needs the cores as well
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        COMPLAINTS_FD: str(complain),
    }
    with (folder.logs / f"rank-{rank}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "sdpo_megatron.loops.rank", str(folder.path)],
            env=environment,
            stdout=None if rank == 0 else log,  # rank 0 draws the display
            stderr=log,
            pass_fds=[complain],
            preexec_fn=_before_exec,
        )


def _before_exec() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the rank can take them


def _watch(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all have left in order or one has failed; the exit code to give."""
    running, code = list(ranks), DONE
    while running:
        for process in list(running):
            if process.poll() is None:
                continue
            running.remove(process)
            if process.returncode not in ORDERLY:
                return USER_ERROR if process.returncode == USER_ERROR else FAILED
            code = max(code, process.returncode)  # the ranks agree on it
        time.sleep(0.1)
    return code


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + GRACE_S
    _signal_all(ranks[:1], signal.SIGTERM)  # it closes the engines
    _signal_all(ranks[1:], signal.SIGKILL)
    for process in ranks:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _signal_all(ranks: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in ranks:
        if process.poll() is None:
            process.send_signal(number)


def _failure(said: bytes, folder: RunFolder, ranks: Sequence[subprocess.Popen[bytes]]) -> str:
    """What to tell: the first complaint of a rank, else the end of a failed rank's log."""
    first, end, _ = said.partition(COMPLAINT_END)
    if end:
        return f"sdpo: {first.decode('utf-8', 'replace').strip()}"
    for rank, process in enumerate(ranks):
        if process.returncode not in (*ORDERLY, -signal.SIGTERM):
            log = folder.logs / f"rank-{rank}.log"
            ended = f"sdpo: rank {rank} ended with {process.returncode}"
            return f"{ended}; the end of {log}:\n{_tail(log)}"
    return f"sdpo: a rank failed; see {folder.logs}"


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
