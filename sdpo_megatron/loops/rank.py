"""One trainer rank: ``torchrun ... -m sdpo_megatron.loops.rank RUN_FOLDER``."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path

from sdpo_megatron.errors import SdpoError


def main(argv: list[str]) -> int:
    """0 when the run is complete or was stopped with a checkpoint; 2 for an error meant for the
    user; 1 for any other.
    """
    from sdpo_megatron.observability.run_folder import RunFolder

    folder = RunFolder(Path(argv[0]))
    rank = int(os.environ.get("RANK", "0"))
    complaint = folder.logs / f"rank-{rank}.error"
    complaint.unlink(missing_ok=True)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    logging.captureWarnings(True)
    try:
        from sdpo_megatron.config import load_saved
        from sdpo_megatron.loops.train import train

        train(load_saved(folder.config_file), folder)
    except SdpoError as error:
        traceback.print_exc()
        complaint.write_text(str(error))
        return 2
    except Exception as error:
        traceback.print_exc()
        complaint.write_text(
            f"rank {rank}: {type(error).__name__}: {error} (traceback in "
            f"{folder.logs}/rank-{rank}.log)"
        )
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Interpreter shutdown with gloo threads and engines can hang; everything that matters is on
    # disk and closed by now.
    os._exit(code)
