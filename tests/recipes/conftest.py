"""nemo-run, with a home of its own."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def nemo(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`run`, `executors`, `launching` and `home`; imported here, after NEMORUN_HOME is set."""
    home = tmp_path_factory.mktemp("nemorun")
    os.environ["NEMORUN_HOME"] = str(home)
    with warnings.catch_warnings():  # of what it imports for other clusters
        warnings.simplefilter("ignore")
        import nemo_run

        from recipes import executors, launching

    nemo_run.config.set_nemorun_home(str(home))
    return SimpleNamespace(run=nemo_run, executors=executors, launching=launching, home=home)


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """An interpreter's stand-in: it appends the arguments that it got, and keeps the configuration
    file, by the machine's number, in its folder."""
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        f'place="{tmp_path}/got-${{NNODES:-1}}-${{NODE_RANK:-0}}-$2"\n'
        'printf "%s\\n" "$@" "$MASTER_ADDR:$MASTER_PORT" > "$place.arguments"\n'
        'for word in "$@"; do case "$word" in *.yaml) cp "$word" "$place.yaml";; esac; done\n'
        'exit "${RECORDER_EXIT:-0}"\n'
    )
    script.chmod(0o755)
    return script
