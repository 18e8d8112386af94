"""The pictures are those that docs/pictures/make.py draws from what was recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
DRAWN = ("success.svg", "terminal.svg", "hidden-api.svg", "small.svg")


def test_they_are_drawn_from_the_recorded_run() -> None:
    before = {name: (PICTURES / name).read_text() for name in DRAWN}
    try:
        subprocess.run([sys.executable, str(PICTURES / "make.py")], check=True)
        after = {name: (PICTURES / name).read_text() for name in DRAWN}
    finally:
        for name, text in before.items():
            (PICTURES / name).write_text(text)
    assert after == before, "run .venv/bin/python docs/pictures/make.py"
