"""nemo-run for tests, and a stand-in for the interpreter of its jobs."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def nemo(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`run`, `executors` and `launching`, for what starts no process: nemo-run leaves pipes open,
    and a warning is an error here (see tests/recipes/sbatch.py)."""
    os.environ["NEMORUN_HOME"] = str(tmp_path_factory.mktemp("nemorun"))
    with warnings.catch_warnings():  # of what it imports for other clusters
        warnings.simplefilter("ignore")
        import nemo_run

        from recipes import executors, launching
    return SimpleNamespace(run=nemo_run, executors=executors, launching=launching)


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It writes the arguments that it got into $RECORDER_FOLDER, and copies the configuration file
    there, by the number of machines, this machine's number and the module."""
    script = tmp_path_factory.mktemp("recorder") / "python"
    script.write_text(
        "#!/bin/sh\n"
        'place="$RECORDER_FOLDER/got-${NNODES:-1}-${NODE_RANK:-0}-$2"\n'
        'printf "%s\\n" "$@" "$MASTER_ADDR:$MASTER_PORT" > "$place.arguments"\n'
        'for word in "$@"; do case "$word" in *.yaml) cp "$word" "$place.yaml";; esac; done\n'
        'exit "${RECORDER_EXIT:-0}"\n'
    )
    script.chmod(0o755)
    return script
