"""The file: one page that needs nothing but itself, and that nothing in a run can make do anything.

Attempts are written by a model, feedback by programs that a model wrote. They are JSON inside
elements that no browser executes, the page turns them into text nodes only, and its policy allows
the two scripts and the style whose hashes it names, no other one, and no request to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sdpo_megatron.monitoring.dashboards.learning import LEARNING
from sdpo_megatron.monitoring.dashboards.trainer import TRAINER
from sdpo_megatron.monitoring.local.content import inside_script, part, rows
from sdpo_megatron.report.blocks import (
    INDEXED,
    MOST_ATTEMPTS,
    MOST_BYTES,
    BlockCache,
    Selection,
    packed,
)
from sdpo_megatron.report.run import described, differences

__all__ = ["report_page"]

_FOLDER = Path(__file__).parent / "page"
_SCRIPTS = ("data.js", "sections.js", "text.js", "tokens.js", "attempt.js", "list.js", "report.js")
_PLACE = re.compile(r"<!--([A-Z]+)-->")


def report_page(caches: Sequence[BlockCache], until: float = float("inf")) -> str:
    """The page of one run, or of several side by side, which share its room for attempts.

    Args:
        caches: Of the run folders.
        until: As in `BlockCache.select`.

    Raises:
        ConfigError: One of them is no run folder, or a file of it cannot be read.
    """
    share = len(caches)
    runs = [described(cache.run) for cache in caches]
    chosen = [c.select(MOST_ATTEMPTS // share, MOST_BYTES // share, until) for c in caches]
    head = {"names": [run["name"] for run in runs], "indexed": INDEXED}
    content = {
        "runs": runs,
        "differences": differences(runs),
        "learning": rows(LEARNING),
        "time": rows(TRAINER),
        "attempts": [_index(selection) for selection in chosen],
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    blocks = [
        f'<script type="text/plain" id="block-{number}-{place}">{block.data}</script>'
        for number, selection in enumerate(chosen)
        for place, block in enumerate(selection.blocks)
    ]
    fixed = _fixed()
    filling = {
        **fixed,
        "POLICY": _policy(fixed),
        "HEAD": inside_script(head),
        "CONTENT": packed(inside_script(content)),
        "BLOCKS": "\n".join(blocks),
    }
    # One pass: what is filled in is not looked at again.
    return _PLACE.sub(lambda match: filling[match[1]], _read("report.html"))


def _index(selection: Selection) -> dict[str, Any]:
    """The rows of all blocks, column by column; `step` and `block` say where each is."""
    columns: dict[str, list[Any]] = {name: [] for name in ("step", "block", "place", *INDEXED)}
    for number, block in enumerate(selection.blocks):
        for place, row in enumerate(block.rows):
            for name, value in zip(columns, (block.step, number, place, *row), strict=True):
                columns[name].append(value)
    return {
        "columns": columns,
        "recorded": selection.num_recorded,
        "complete": selection.complete,
    }


@cache
def _fixed() -> dict[str, str]:
    """What is the same in every report."""
    return {
        "STYLE": part("uplot/uPlot.min.css") + _read("report.css"),
        "PLOTS": part("uplot/uPlot.iife.min.js"),
        "SCRIPT": '"use strict";\n' + part("plots.js") + "".join(map(_read, _SCRIPTS)),
        "LICENCE": part("uplot/LICENSE").strip(),
    }


def _policy(fixed: dict[str, str]) -> str:
    scripts = " ".join(_hash(fixed[name]) for name in ("PLOTS", "SCRIPT"))
    return (
        f"default-src 'none'; script-src {scripts}; style-src {_hash(fixed['STYLE'])}; "
        "img-src data:; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
