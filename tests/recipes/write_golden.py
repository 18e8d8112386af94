"""Writes golden/*.sbatch anew: ``python -m tests.recipes.write_golden``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NEMORUN_HOME"] = folder
        import nemo_run

        from recipes import executors, launching
        from tests.recipes import sbatch

        nemo = SimpleNamespace(run=nemo_run, executors=executors, launching=launching)
        for name in sbatch.CLUSTERS:
            text = sbatch.normalised(sbatch.dry_run(nemo, name), Path(folder))
            (sbatch.GOLDEN / f"{name}.sbatch").write_text(text)
