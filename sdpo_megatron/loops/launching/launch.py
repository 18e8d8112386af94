"""`sdpo train`: starts the trainer ranks of this machine, watches them, and ends them together.

On several machines the same command runs on each (see `nodes`). The environment of a rank is
torchrun's (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), so torchrun can start the same
module: ``torchrun ... -m sdpo_megatron.loops.rank RUN_FOLDER``. Here each rank also gets a
parent-death signal: however this process goes, kill -9 included, no rank is left, and rank 0 takes
its engines with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType

from sdpo_megatron.actor.runtime import visible_gpus
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError, PeerLost
from sdpo_megatron.exit_codes import DONE, FAILED, ORDERLY, USER_ERROR
from sdpo_megatron.loops.launching.lease import VARIABLE, Lease
from sdpo_megatron.loops.launching.nodes import Peers, Place
from sdpo_megatron.loops.launching.placement import assign
from sdpo_megatron.loops.launching.prepare import make_folder
from sdpo_megatron.loops.rank import COMPLAINT_END, COMPLAINTS_FD
from sdpo_megatron.loops.stop import SIGNALS
from sdpo_megatron.observability.run_folder import RunFolder
from sdpo_megatron.ports import hold_port
from sdpo_megatron.process_tree import die_with_parent

GRACE_S = 10.0
"""Seconds that rank 0 gets to leave by itself when another one has failed."""
_SHARED_S = 60.0  # for a file to be seen on another machine
_STOPPING = "sdpo: stopping with a checkpoint; once more to stop at once"


def run(config: TrainConfig, path: Path, place: Place) -> int:
    """Prepare the run folder `path`, or on a further machine wait for it, then run to the end.

    Returns the exit code (see `exit_codes`).

    Raises:
        RunFolderInUse: Another trainer, which lives, writes the run folder.
        LeaseLost: Another trainer has taken it over meanwhile.
        PeerLost: Another machine of the run has failed or is gone.
        ConfigError: The machines do not fit the ranks, or the folder holds another run.
    """
    placed = assign(
        config, visible_gpus(), len(place.local_ranks(_world(config))), engines=place.node == 0
    )
    for line in placed.lines():
        _say(line)
    with ExitStack() as stack:
        peers = stack.enter_context(Peers(place, config.run.peer_timeout_s))
        stack.callback(peers.leave, FAILED)  # should we not get to tell how it ended
        if place.node == 0:
            folder, lease = stack.enter_context(make_folder(config, path, _say))
            peers.tell_prepared(str(path.resolve()), lease.token)
        else:
            _say(f"node {place.node} of {place.num_nodes}: waiting for node 0 at {place.address}")
            shared, token = peers.wait_prepared()
            folder = RunFolder(_seen(Path(shared)))
            lease = Lease(folder.path / "lease", token)
        code = _launch(config, folder, lease, peers)
        peers.leave(code)
        return code


def _say(said: str) -> None:
    print(f"sdpo: {said}", flush=True)


def _seen(path: Path) -> Path:
    """`path`, once its config can be read here: a network file system may show it a little late."""
    end = time.monotonic() + _SHARED_S
    while not (path / "config.yaml").is_file():
        if time.monotonic() > end:
            raise ConfigError(
                f"{path / 'config.yaml'}, which node 0 has written, is not to be seen here: "
                "run.folder must lie on a file system that all machines share, at the same path"
            )
        time.sleep(0.5)
    return path


def _world(config: TrainConfig) -> int:
    return config.parallel.model_ranks * config.run.data_parallel


def _launch(config: TrainConfig, folder: RunFolder, lease: Lease, peers: Peers) -> int:
    """Run the ranks of this machine to the end.

    SIGTERM and SIGINT are handed to the ranks of all machines, which checkpoint and leave; a second
    one ends those of this one at once. So does the loss of the lease, or of another machine.
    """
    complaints, complain = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    place, meeting_point = peers.place, None
    if not place.port:
        meeting_point = hold_port(place.address)
        place = replace(place, port=int(meeting_point.getsockname()[1]))
    os.environ[VARIABLE] = str(lease.token)
    ranks = [
        _start_rank(rank, place, config, folder, complain)
        for rank in place.local_ranks(_world(config))
    ]
    os.close(complain)
    asked = 0

    def kill(_reason: str = "") -> None:
        _signal_all(ranks, signal.SIGKILL)

    def hand_down(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            kill()
        else:
            _signal_all(ranks, signal.SIGTERM)
            print(_STOPPING, file=sys.stderr, flush=True)
            threading.Thread(target=peers.ask_to_stop, daemon=True).start()

    previous = {number: signal.signal(number, hand_down) for number in SIGNALS}
    lease.on_loss = kill
    peers.watch(lambda: _signal_all(ranks, signal.SIGTERM), kill)
    try:
        code = _watch(ranks)
    finally:
        _end(ranks)
        if meeting_point is not None:
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
        if peers.lost:
            raise PeerLost(f"{peers.lost}. To go on: the same command on every machine")
        here = place.local_ranks(_world(config))
        print(_failure(said, folder, dict(zip(here, ranks, strict=True))), file=sys.stderr)
    return code


def _start_rank(
    rank: int, place: Place, config: TrainConfig, folder: RunFolder, complain: int
) -> subprocess.Popen[bytes]:
    here = place.local_ranks(_world(config))
    threads = config.run.threads_per_rank or max(1, (os.cpu_count() or 1) // len(here))
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank - here.start),
        "WORLD_SIZE": str(_world(config)),
        "LOCAL_WORLD_SIZE": str(len(here)),
        "MASTER_ADDR": place.address,
        "MASTER_PORT": str(place.port),
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
    die_with_parent()
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


def _failure(said: bytes, folder: RunFolder, ranks: Mapping[int, subprocess.Popen[bytes]]) -> str:
    """What to tell: the first complaint of a rank, else the end of a failed rank's log."""
    first, end, _ = said.partition(COMPLAINT_END)
    if end:
        return f"sdpo: {first.decode('utf-8', 'replace').strip()}"
    for rank, process in ranks.items():
        if process.returncode not in (*ORDERLY, -signal.SIGTERM):
            log = folder.logs / f"rank-{rank}.log"
            ended = f"sdpo: rank {rank} ended with {process.returncode}"
            return f"{ended}; the end of {log}:\n{_tail(log)}"
    return f"sdpo: a rank failed; see {folder.logs}"


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
