"""A sidecar for engines at another site: keeps their copy of the weights by deltas.

    python -m serving.site --source SHARED/weights --folder /weights

The trainer (`rollout.engine.swap.delta`) leaves each version's delta beside its folder. The sidecar
sees that place however the sites are joined (a mount, rclone, rsync), copies the newest whole
version once, and from then on reads deltas alone: each becomes a folder here, under the name that
the trainer tells the engines to load. Until it is there an engine refuses and is asked again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sdpo_megatron.errors import CheckpointError
from sdpo_megatron.weights.delta import SUFFIX, apply_delta, copy_base, read_info

_POLL_S = 1.0


def follow_once(source: Path, folder: Path, report: Callable[[str], None]) -> bool:
    """Bring `folder` one version further, or to a first one; whether there was something to do.

    The version before is kept: an engine may be reading it. Older ones go.

    Raises:
        CheckpointError: A delta does not fit; the next call begins anew from a whole version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here = _versions(folder)
    if here:
        for delta in sorted(source.glob(f"*{SUFFIX}")):
            info = read_info(delta)
            if info.base == here[-1].name:
                try:
                    apply_delta(here[-1], delta, folder / info.target)
                except CheckpointError:
                    shutil.rmtree(here[-1], ignore_errors=True)
                    raise
                report(f"{info.target}: {info.num_bytes} bytes for {info.raw_bytes}")
                for old in here[:-1]:
                    shutil.rmtree(old, ignore_errors=True)
                return True
    newest = _versions(source)[-1:]
    if not newest or (here and newest[0].name <= here[-1].name):
        return False
    copy_base(newest[0], folder / newest[0].name)
    report(f"{newest[0].name}: copied whole")
    return True


def _versions(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("v*") if path.is_dir())


def main() -> int:
    """Follow until it is ended."""
    parser = argparse.ArgumentParser(description="Keeps a site's weights by deltas.")
    parser.add_argument("--source", type=Path, required=True, help="RUN/weights of the trainer")
    parser.add_argument("--folder", type=Path, required=True, help="where the engines read")
    given = parser.parse_args()
    while True:
        try:
            if follow_once(given.source, given.folder, lambda text: print(text, flush=True)):
                continue
        except (CheckpointError, OSError) as error:
            print(f"{error}; trying again", file=sys.stderr, flush=True)
        time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.exit(main())
