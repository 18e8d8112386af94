"""The machinery itself: refusal, failure, death of the host, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sdpo_megatron.errors import ConfigError, SandboxRefused, VerifierUnavailable
from sdpo_megatron.sandbox import LAYERS, Program, RunLimits, Sandbox, SandboxConfig, detect_layers
from tests.sandbox import packages

_REPOSITORY = Path(__file__).parents[2]


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_until(condition: object, what: str) -> None:
    for _ in range(400):
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise AssertionError(f"still not so after 20 s: {what}")


def test_below_the_minimum_nothing_is_run() -> None:
    config = SandboxConfig(
        workers=1, disable_layers=("seccomp",), minimum_layers=("seccomp", "pid")
    )
    with pytest.raises(SandboxRefused, match="seccomp: switched off in the config"):
        Sandbox(config).start()


def test_results_name_the_layers() -> None:
    with Sandbox(SandboxConfig(workers=1, disable_layers=("landlock",))) as sandbox:
        layers = sandbox.run(Program.script("pass")).layers
    assert "landlock" not in layers
    assert {"pid", "net", "seccomp", "rlimits", "accounting"} <= set(layers)
    assert set(layers) <= set(LAYERS)


def test_detection_has_a_word_on_every_layer() -> None:
    found = detect_layers()
    assert list(found) == list(LAYERS)
    assert found["rlimits"] is True
    assert all(value is True or (isinstance(value, str) and value) for value in found.values())


def test_config_names_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"minimum_layers=\[firewall\]: no layers: firewall"):
        SandboxConfig(minimum_layers=("firewall",))
    with pytest.raises(ConfigError, match="memory_mib=0: must be at least 32"):
        RunLimits(memory_mib=0)


def test_a_dead_worker_is_an_infrastructure_failure_and_is_replaced() -> None:
    with Sandbox(SandboxConfig(workers=1)) as sandbox:
        victim = sandbox._idle.get()
        assert victim is not None
        os.kill(victim.pid, signal.SIGKILL)
        sandbox._idle.put(victim)
        with pytest.raises(VerifierUnavailable):
            sandbox.run(Program.script("print(1)"))
        assert sandbox.run(Program.script("print(2)")).stdout == b"2\n"


def test_a_dead_zygote_is_restarted() -> None:
    with Sandbox(SandboxConfig(workers=2)) as sandbox:
        assert sandbox._zygote is not None
        sandbox._zygote.kill()
        sandbox._zygote.wait()
        with pytest.raises(VerifierUnavailable):
            sandbox.run(Program.script("print(1)"))
        for _ in range(4):
            assert sandbox.run(Program.script("print(2)")).stdout == b"2\n"


def test_closing_ends_a_run_in_another_thread() -> None:
    sandbox = Sandbox(SandboxConfig(workers=1), RunLimits(wall_s=60.0)).start()
    outcome: list[str] = []

    def run() -> None:
        try:
            sandbox.run(Program.script("import time; time.sleep(60)"))
        except VerifierUnavailable:
            outcome.append("unavailable")

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)
    sandbox.close()
    thread.join(timeout=30)
    assert outcome == ["unavailable"]
    with pytest.raises(VerifierUnavailable, match="closed"):
        sandbox.run(Program.script("pass"))


_HOST = """
import sys, threading, time
from sdpo_megatron.sandbox import Program, RunLimits, Sandbox, SandboxConfig
config = SandboxConfig(workers=2)
sandbox = Sandbox(config, RunLimits(wall_s=300.0, cpu_s=300.0)).start()
source = (
    "import ctypes, os, time\\n"
    "ctypes.CDLL(None).prctl(15, b'" + sys.argv[1] + "', 0, 0, 0)\\n"
    "os.fork()\\n"
    "time.sleep(250)\\n"
)
threading.Thread(target=sandbox.run, args=(Program.script(source),), daemon=True).start()
time.sleep(1.5)
print(sandbox._zygote.pid, *sandbox._indices, flush=True)
time.sleep(250)
"""


@pytest.mark.slow
def test_nothing_outlives_a_host_that_is_killed() -> None:
    marker = "orphan-of-host"
    host = subprocess.Popen(
        [sys.executable, "-c", _HOST, marker], stdout=subprocess.PIPE, cwd=_REPOSITORY
    )
    assert host.stdout is not None
    pids = [int(word) for word in host.stdout.readline().split()]
    assert len(pids) == 3
    assert all(map(_alive, pids))
    assert _named(marker)
    host.kill()
    host.wait()
    host.stdout.close()
    _wait_until(lambda: not any(map(_alive, pids)), "zygote and workers are gone")
    _wait_until(lambda: not _named(marker), "the programs are gone")
    left = list(Path("/sys/fs/cgroup").glob(f"*/**/sdpo-{host.pid}-*"))
    assert left == [], "cgroups were left behind"


def _named(marker: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text(errors="replace").strip() == marker:
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_the_zygote_inherits_nothing() -> None:
    os.environ["SDPO_TEST_SECRET"] = "in the host's environment"
    try:
        with Sandbox(SandboxConfig(workers=1)) as sandbox:
            assert sandbox._zygote is not None
            environment = Path(f"/proc/{sandbox._zygote.pid}/environ").read_bytes()
            loaded = sandbox.run(Program.script("import sys; print(*sorted(sys.modules))")).stdout
    finally:
        del os.environ["SDPO_TEST_SECRET"]
    names = {entry.partition(b"=")[0] for entry in environment.split(b"\0") if entry}
    assert names == {b"PYTHONHASHSEED", b"LC_ALL", b"OPENBLAS_NUM_THREADS"}
    assert not {m for m in loaded.decode().split() if m.startswith(("sdpo", "pytest", "torch"))}


def test_set_order_is_the_same_on_every_run() -> None:
    source = "print({'alpha', 'beta', 'gamma', 'delta'}, hash('x'))"
    outputs = set()
    for _ in range(2):
        with Sandbox(SandboxConfig(workers=1)) as sandbox:
            outputs.add(sandbox.run(Program.script(source)).stdout)
    assert len(outputs) == 1


@pytest.mark.skipif(packages.HIDDEN, reason=packages.WHY)
def test_packages_named_in_the_config_can_be_imported() -> None:
    source = "import numpy; print(int(numpy.arange(5).sum()))"
    config = SandboxConfig(workers=1, packages=("numpy",))
    with Sandbox(config, RunLimits(memory_mib=1024)) as sandbox:
        assert sandbox.run(Program.script(source)).stdout == b"10\n"
    with Sandbox(SandboxConfig(workers=1, packages=())) as sandbox:
        assert sandbox.run(Program.script(source)).report.type == "ModuleNotFoundError"


def test_packages_are_imported_by_none_but_who_uses_them() -> None:
    with Sandbox(SandboxConfig(workers=1)) as sandbox:
        loaded = sandbox.run(Program.script("import sys; print('numpy' in sys.modules)"))
    assert loaded.stdout == b"False\n"


def test_large_input_and_output_arrive_whole() -> None:
    data = bytes(range(256)) * 4096
    source = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"
    with Sandbox(SandboxConfig(workers=1), RunLimits(output_kib=2048)) as sandbox:
        result = sandbox.run(Program.script(source, data))
    assert result.stdout == data[::-1]


def test_the_nonce_differs_and_never_reaches_the_program() -> None:
    source = (
        "import gc\nprint(sorted({o for o in gc.get_objects() if type(o) is str and len(o) == 32}))"
    )
    with Sandbox(SandboxConfig(workers=1)) as sandbox:
        first, second = sandbox.run(Program.script(source)), sandbox.run(Program.script(source))
    assert first.nonce != second.nonce
    assert len(first.nonce) == 32
    assert first.nonce.encode() not in first.stdout
