"""One trainer rank: ``torchrun ... -m sdpo_megatron.loops.rank RUN_FOLDER``."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import traceback
from pathlib import Path

from sdpo_megatron.errors import SdpoError
from sdpo_megatron.exit_codes import DONE, FAILED, STOPPED
from sdpo_megatron.loops.launching.lease import Lease
from sdpo_megatron.loops.stop import StopRequest

COMPLAINTS_FD = "SDPO_COMPLAINTS_FD"
"""Environment variable: the launcher's pipe, which takes the reason why a rank failed. Not a file:
the disk may be full."""
COMPLAINT_END = b"\0"
GPU_SETTINGS = {
    # Attention's backward pass may else add up in any order, and a resumed run would differ.
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
    # Micro-batches differ in length from step to step: segments that grow do not fragment.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
_MAX_COMPLAINT = 4000  # with its end below PIPE_BUF, so that those of two ranks do not mix


def main(argv: list[str]) -> int:
    """Run this rank; the exit code (see `exit_codes`)."""
    from sdpo_megatron.observability.run_folder import RunFolder

    stop = StopRequest()
    stop.take_signals()
    for name, value in GPU_SETTINGS.items():  # before anything imports torch
        os.environ.setdefault(name, value)
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    logging.captureWarnings(True)
    try:
        path = Path(argv[0])
        lease = Lease.inherited(path) or (Lease.acquire(path) if rank == 0 else None)
        folder = RunFolder(path, lease.check if lease else lambda: None)
        from sdpo_megatron.config import load_saved
        from sdpo_megatron.loops.discover import discover
        from sdpo_megatron.loops.train import train

        config = load_saved(folder.config_file)
        complete = (train if config.discovery is None else discover)(config, folder, stop)
    except SdpoError as error:
        _complain(str(error))
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _complain(_unexpected(error, rank, argv[0]))
            return FAILED
        _complain(
            f"the disk is full: {error}. Free some space at {argv[0]} and go on from the last "
            f"checkpoint: sdpo train --resume {argv[0]}"
        )
        return FAILED
    except Exception as error:
        _complain(_unexpected(error, rank, argv[0]))
        return FAILED
    if lease:
        lease.release()
    return DONE if complete else STOPPED


def _unexpected(error: Exception, rank: int, folder: str) -> str:
    log = Path(folder) / "logs" / f"rank-{rank}.log"
    return f"rank {rank}: {type(error).__name__}: {error} (traceback in {log})"


def _complain(text: str) -> None:
    """Tell the launcher, and write the traceback to the log where it can be written."""
    if fd := os.environ.get(COMPLAINTS_FD):  # torchrun has no such pipe, but keeps the log
        os.write(int(fd), text.encode()[:_MAX_COMPLAINT] + COMPLAINT_END)
    with contextlib.suppress(OSError):
        traceback.print_exc()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # Interpreter shutdown with gloo threads and engines can hang; everything that matters is on
    # disk and closed by now.
    os._exit(code)
