"""axe-core, the accessibility checker, from npm: fetched once into .axe/ of the checkout."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

VERSION = "4.14.1"
_KEPT = Path(__file__).parents[2] / ".axe" / f"axe-core-{VERSION}.min.js"


def source() -> str:
    """Its script. Skips the test where npm cannot fetch it."""
    if not _KEPT.is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip(
                "npm, which fetches axe-core, is not installed: accessibility is not checked"
            )
        with tempfile.TemporaryDirectory() as folder:
            command = [npm, "pack", f"axe-core@{VERSION}", "--pack-destination", folder]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode:
                pytest.skip(f"npm could not fetch axe-core {VERSION}: accessibility is not checked")
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as package:
                script = package.extractfile("package/axe.min.js")
                assert script is not None
                _KEPT.parent.mkdir(exist_ok=True)
                _KEPT.write_bytes(script.read())
    return _KEPT.read_text(encoding="utf-8")


def violations(page: Page) -> list[str]:
    """What axe finds on the page as it is now: impact, rule, and the first places."""
    page.evaluate(source())
    found: dict[str, Any] = page.evaluate("() => axe.run()")
    return [
        f"{v['impact']} {v['id']}: {[node['target'] for node in v['nodes'][:3]]}"
        for v in found["violations"]
    ]
