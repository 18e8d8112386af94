"""``sdpo report``: build the report of a run anew, or set several runs side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.exit_codes import DONE
from sdpo_megatron.files import write_whole
from sdpo_megatron.report.blocks import BlockCache
from sdpo_megatron.report.page import report_page
from sdpo_megatron.report.writer import NAME

_TOGETHER = "comparison.html"


def main(arguments: Sequence[str]) -> int:
    """Write the page; returns the exit code.

    Raises:
        ConfigError: A folder is no run folder, or the page cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="sdpo report",
        description="Write a page of a run: curves, health, times, settings, and a reader for its "
        "attempts. Of several runs, one page that shows them side by side. A run writes its own "
        "report.html as it goes; this builds it anew.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run folder")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"where to write it; {NAME} in the run's folder, {_TOGETHER} here for several",
    )
    parsed = parser.parse_args(arguments)
    runs: list[Path] = parsed.runs
    target = parsed.output or (runs[0] / NAME if len(runs) == 1 else Path(_TOGETHER))
    page = report_page([BlockCache(run) for run in runs])
    try:
        write_whole(target, page)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    print(
        f"{target} ({len(page.encode()) / 2**20:.1f} MiB): open it in a browser; no network needed"
    )
    return DONE
