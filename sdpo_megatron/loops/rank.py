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
from sdpo_megatron.loops.stop import StopRequest

COMPLAINTS_FD = "SDPO_COMPLAINTS_FD"
"""Environment variable: the launcher's pipe, which takes the reason why a rank failed. Not a file:
the disk may be full."""
COMPLAINT_END = b"\0"
_MAX_COMPLAINT = 4000  # with its end below PIPE_BUF, so that those of two ranks do not mix


def main(argv: list[str]) -> int:
    """0 when the run is complete or was stopped with a checkpoint; 2 for an error meant for the
    user; 1 for any other.
    """
    from sdpo_megatron.observability.run_folder import RunFolder

    stop = StopRequest()
    stop.take_signals()
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    logging.captureWarnings(True)
    try:
        folder = RunFolder(Path(argv[0]))
        from sdpo_megatron.config import load_saved
        from sdpo_megatron.loops.train import train

        train(load_saved(folder.config_file), folder, stop)
    except SdpoError as error:
        _complain(str(error))
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _complain(_unexpected(error, rank, argv[0]))
            return 1
        _complain(
            f"the disk is full: {error}. Free some space at {argv[0]} and go on from the last "
            f"checkpoint: sdpo train --resume {argv[0]}"
        )
        return 2
    except Exception as error:
        _complain(_unexpected(error, rank, argv[0]))
        return 1
    return 0


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
