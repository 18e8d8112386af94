"""Places that lack what a machine has: no namespaces, no capabilities, nothing to write to."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sdpo_megatron.sandbox import Program, RunLimits, Sandbox, SandboxConfig
from sdpo_megatron.sandbox.inside.fence import folders
from tests.sandbox.attacks import assert_stopped, attack, facts
from tests.sandbox.ordinary_user import UserSandbox
from tests.sandbox.pod import MINIMUM, PLACES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make such a place")
_CONFIG = SandboxConfig(workers=1, minimum_layers=MINIMUM)
_LIMITS = RunLimits(wall_s=20.0, cpu_s=2.0, memory_mib=192)


@pytest.fixture(scope="module", params=PLACES)
def restricted(request: pytest.FixtureRequest) -> Iterator[UserSandbox]:
    sandbox = UserSandbox(_CONFIG, _LIMITS, request.param)
    yield sandbox
    sandbox.close()


def test_the_minimum_of_four_layers_runs_programs(restricted: UserSandbox) -> None:
    assert restricted.layers == MINIMUM
    source = "import os, threading\nif os.fork() == 0: os._exit(0)\nprint(os.wait()[1], input())"
    for _ in range(3):
        result = restricted.run(Program.script(source, b"in\n"))
        assert result.stdout == b"0 in\n", facts(result)


def test_one_kills_nobody_by_number_there(restricted: UserSandbox) -> None:
    """The host is of the same user and in sight."""
    for body in (
        "os.kill(os.getppid(), 0)",
        "os.kill(-1, 0)",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "os.sched_setaffinity(os.getppid(), [0])",
        "open(f'/proc/{os.getppid()}/environ').read()",
    ):
        assert_stopped(restricted.run(attack(f"import os, resource; {body}")), "PermissionError")


def test_nothing_is_left_running_there(restricted: UserSandbox) -> None:
    source = (
        "import ctypes, os, time\n"
        "ctypes.CDLL(None).prctl(15, b'left-in-pod', 0, 0, 0)\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork(): os._exit(0)\n"
        "        time.sleep(60)\n"
        "print('over')\n"
    )
    assert restricted.run(Program.script(source)).stdout == b"over\n"
    names = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            names.append(path.read_text(errors="replace").strip())
        except OSError:
            continue
    assert "left-in-pod" not in names


def test_root_without_capabilities_is_an_ordinary_user() -> None:
    """What decides is the capability, not the number; and `uid` is claimed only where it worked."""
    code = (
        "import ctypes, sys\n"
        "from sdpo_megatron.sandbox import Program, Sandbox, SandboxConfig\n"
        "from sdpo_megatron.sandbox.inside.fence import linux\n"
        "linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)\n"
        "linux.call('capset', linux.CAPSET_HEADER, linux.NO_CAPABILITIES)\n"
        "with Sandbox(SandboxConfig(workers=1, minimum_layers=('seccomp',))) as sandbox:\n"
        "    print('uid' in sandbox.layers, sandbox.missing['uid'])\n"
        "    print(sandbox.run(Program.script('print(6 * 7)')).stdout)\n"
    )
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=120
    )
    expected = "False this process lacks CAP_SETUID and CAP_SETGID\nb'42\\n'\n"
    assert done.stdout == expected, done.stderr


def test_folders_of_killed_hosts_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their lock: what a living worker holds stays."""
    with tempfile.TemporaryDirectory() as parent:
        monkeypatch.setattr(tempfile, "tempdir", parent)
        first, second = folders.hold_folder(), folders.hold_folder()
        assert first is not None
        assert second is not None
        Path(first[0], "7").mkdir()
        os.close(first[1])  # as when its holder is killed
        third = folders.hold_folder()
        assert third is not None
        assert sorted(os.listdir(parent)) == sorted(
            os.path.basename(path) for path in (second[0], third[0])
        )
        folders.release(*second)
        folders.release(*third)
        assert os.listdir(parent) == []


def test_a_sandbox_with_a_private_tmp_makes_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as parent:
        monkeypatch.setenv("TMPDIR", parent)
        with Sandbox(replace(_CONFIG, minimum_layers=("private_tmp",))) as sandbox:
            sandbox.run(Program.script("pass"))
            assert os.listdir(parent) == []


def test_an_interpreter_below_the_temporary_folder(tmp_path: Path) -> None:
    """The private /tmp hides it from the runs, which were forked from it already."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    with Sandbox(SandboxConfig(workers=1, python=python)) as sandbox:
        assert sandbox.run(Program.script("import json; print(1)")).stdout == b"1\n"
