"""The guardian: nothing of an engine outlives the trainer, the guardian or the engine itself. Real
processes, no SGLang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import serving.launch
from tests.serving.processes import eventually, running_with

# An engine like SGLang: a child that gave itself a session of its own, and a grandchild below it.
ENGINE = """
import os, subprocess, sys, time
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
child = f"import subprocess as s, sys; s.Popen([sys.executable, '-c', {stubborn!r}]); {stubborn}"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
print("up", flush=True)
{then}
"""
SLEEP = "time.sleep(600)"
NUM_PROCESSES = 4  # guardian, engine, child, grandchild


@pytest.fixture
def tag() -> Iterator[str]:
    """Marks every process of one test, by an inherited environment variable."""
    name = f"guardian-test-{uuid.uuid4()}"
    yield name
    for pid in running_with(name):
        os.kill(pid, signal.SIGKILL)


def command(then: str, grace: float = 0.2) -> list[str]:
    guard = [sys.executable, "-I", "-S", str(serving.launch.GUARDIAN)]
    return [
        *guard,
        "--parent",
        "PARENT",
        "--grace",
        str(grace),
        "--",
        sys.executable,
        "-c",
        ENGINE.replace("{then}", then),
    ]


def start(tag: str, then: str = SLEEP) -> subprocess.Popen[bytes]:
    """The guardian as a child of this process, its whole tree up."""
    words = [str(os.getpid()) if word == "PARENT" else word for word in command(then)]
    guardian = subprocess.Popen(words, env={**os.environ, "TAG": tag}, stdout=subprocess.PIPE)
    assert guardian.stdout is not None
    with guardian.stdout:
        guardian.stdout.readline()
    if then == SLEEP:
        assert eventually(lambda: len(running_with(tag)) == NUM_PROCESSES)
    return guardian


def test_temporary_files_of_the_engine_go_with_it(
    tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    guardian = start(tag, then=f"import tempfile; tempfile.mkstemp(); {SLEEP}")
    assert eventually(lambda: len(list(tmp_path.glob("sdpo-engine-*/*"))) == 1)
    guardian.send_signal(signal.SIGTERM)
    guardian.wait(timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_sigkill_of_the_parent_leaves_nothing(tag: str, tmp_path: Path) -> None:
    words = command(SLEEP)
    words[words.index("PARENT")] = "{parent}"
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import os, subprocess, sys, time\n"
        f"words = [w if w != '{{parent}}' else str(os.getpid()) for w in {words!r}]\n"
        "subprocess.Popen(words, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, str(parent)], env={**os.environ, "TAG": tag})
    assert eventually(lambda: len(running_with(tag)) == NUM_PROCESSES + 1)
    process.kill()
    process.wait()
    assert eventually(lambda: running_with(tag) == [])


def test_sigkill_of_the_guardian_ends_the_engine(tag: str) -> None:
    """The kernel ends the engine's main process; SGLang's own children ask it for the same."""
    guardian = start(tag)
    before = set(running_with(tag))
    guardian.kill()
    guardian.wait()
    assert eventually(lambda: len(running_with(tag)) == NUM_PROCESSES - 2)
    assert set(running_with(tag)) < before - {guardian.pid}


def test_sigterm_ends_all_even_what_ignores_it(tag: str) -> None:
    guardian = start(tag)
    guardian.terminate()
    assert guardian.wait(timeout=60) == 128 + signal.SIGTERM
    assert running_with(tag) == []


def test_descendants_of_an_engine_that_ended_are_ended(tag: str) -> None:
    guardian = start(tag, then="time.sleep(0.3); sys.exit(7)")
    assert guardian.wait(timeout=60) == 7
    assert running_with(tag) == []


def test_parent_that_died_before_the_guardian_looked(tag: str) -> None:
    words = [
        ("1" if os.getppid() != 1 else "2") if word == "PARENT" else word for word in command(SLEEP)
    ]
    guardian = subprocess.Popen(words, env={**os.environ, "TAG": tag}, stdout=subprocess.DEVNULL)
    guardian.wait(timeout=60)
    assert running_with(tag) == []
