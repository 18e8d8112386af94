"""schemathesis against the service's OpenAPI page finds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.judging.service_process import TOKEN, running_service


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with running_service(tmp_path / "log", "workers=2") as service:
        command = [str(Path(sys.executable).with_name("schemathesis")), "run"]
        command += [f"{service.url}/openapi.json", "-H", f"Authorization: Bearer {TOKEN}"]
        command += ["--max-examples", "100", "--seed", "1", "--no-color"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout
    assert "Tested: 5" in done.stdout
    assert "Traceback" not in (tmp_path / "log").read_text()
