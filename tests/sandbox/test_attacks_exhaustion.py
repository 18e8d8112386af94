"""Attacks that use things up: processes, memory, disk, output, time. One property a test."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from sdpo_megatron.sandbox import Program
from tests.sandbox.attacks import facts
from tests.sandbox.conftest import SMALL, Target


def _processes_of(marker: str) -> list[str]:
    """Pids of the host's processes whose environment or memory map names `marker`; used to find
    what a run left.
    """
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                if file.read().strip() == marker:
                    found.append(pid)
        except OSError:
            continue
    return found


_RENAME = "import ctypes; ctypes.CDLL(None).prctl(15, b'{marker}', 0, 0, 0)\n"


def test_fork_bomb(sandbox: Target) -> None:
    source = _RENAME.format(marker="bomb") + (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    )
    result = sandbox.run(Program.script(source))
    assert result.cause in ("cpu_time", "processes"), facts(result)
    assert _processes_of("bomb") == []


def test_number_of_processes_is_bounded(sandbox: Target) -> None:
    source = (
        "import os, time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 500:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(30)\n"
        "            os._exit(0)\n"
        "        made += 1\n"
        "except OSError:\n"
        "    pass\n"
        "print(made, flush=True)\n"
    )
    result = sandbox.run(Program.script(source))
    if result.cause != "processes":
        assert 1 <= int(result.stdout) < 32, facts(result)


def test_threads_are_bounded(sandbox: Target) -> None:
    source = (
        "import threading, time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 500:\n"
        "        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n"
        "        made += 1\n"
        "except RuntimeError:\n"
        "    pass\n"
        "print(made)\n"
    )
    result = sandbox.run(Program.script(source))
    if result.cause != "processes":
        assert 1 <= int(result.stdout) < 32, facts(result)


def test_memory_in_one_process(sandbox: Target) -> None:
    source = "blocks = []\nwhile True:\n    blocks.append(bytearray(b'x' * (1 << 24)))\n"
    result = sandbox.run(Program.script(source))
    assert result.cause == "memory", facts(result)
    assert result.peak_memory_mib < 600


def test_memory_in_eight_children(sandbox: Target) -> None:
    """Each below the limit of a process, together far above the limit of the run (192 MiB)."""
    source = (
        "import os, time\n"
        "children = []\n"
        "for _ in range(8):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        block = bytearray(b'x' * (100 << 20))\n"
        "        time.sleep(10)\n"
        "        print('BREACH', flush=True)\n"
        "        os._exit(0)\n"
        "    children.append(pid)\n"
        "codes = [os.waitpid(pid, 0)[1] for pid in children]\n"
        "print('killed', sum(code != 0 for code in codes))\n"
    )
    result = sandbox.run(Program.script(source))
    if result.cause != "memory":  # the kernel killed children, not the program
        assert result.stdout.count(b"BREACH") <= 2, facts(result)


def test_huge_single_allocation(sandbox: Target) -> None:
    result = sandbox.run(Program.script("x = bytearray(1 << 40)"))
    assert result.cause == "memory", facts(result)


def test_filling_the_disk(sandbox: Target) -> None:
    source = (
        "written = 0\n"
        "try:\n"
        "    for number in range(64):\n"
        "        with open(f'/tmp/{number}', 'wb') as file:\n"
        "            file.write(bytes(1 << 20))\n"
        "            written += 1\n"
        "except OSError as error:\n"
        "    print(written, error.errno)\n"
    )
    result = sandbox.run(Program.script(source))
    written, errno = map(int, result.stdout.split())
    assert written <= 8, facts(result)
    assert errno in (28, 27)  # no space left, file too large


def test_using_up_inodes(sandbox: Target) -> None:
    source = (
        "made = 0\n"
        "try:\n"
        "    for made in range(100000):\n"
        "        open(f'/tmp/{made}', 'w').close()\n"
        "except OSError:\n"
        "    pass\n"
        "print(made)\n"
    )
    result = sandbox.run(Program.script(source, cpu_s=20))
    assert int(result.stdout) < 2100, facts(result)


def test_flooding_stdout(sandbox: Target) -> None:
    result = sandbox.run(Program.script("while True: print('x' * 10000)"))
    assert result.cause == "output", facts(result)
    assert len(result.stdout) == 64 << 10


def test_flooding_stderr(sandbox: Target) -> None:
    result = sandbox.run(Program.script("import sys\nwhile True: sys.stderr.write('x' * 10000)"))
    assert result.cause == "output", facts(result)
    assert len(result.stderr) == 64 << 10


def test_flooding_both_from_children(sandbox: Target) -> None:
    source = (
        "import os\n"
        "for _ in range(4): os.fork()\n"
        "while True:\n"
        "    os.write(1, b'x' * 4096)\n"
        "    os.write(2, b'y' * 4096)\n"
    )
    result = sandbox.run(Program.script(source))
    assert result.cause == "output", facts(result)
    assert len(result.stdout) <= 64 << 10


def test_flooding_the_report_channel(sandbox: Target) -> None:
    source = "import os\nwhile True: os.write(3, b'\\x7f' * 65536)"
    result = sandbox.run(Program.script(source, cpu_s=10))
    assert result.cause == "output", facts(result)
    assert result.report.kind == "garbage"


def test_computing_for_ever(sandbox: Target) -> None:
    result = sandbox.run(Program.script("while True: pass", cpu_s=1))
    assert result.cause == "cpu_time", facts(result)
    assert result.cpu_s < 5


def test_computing_for_ever_in_children(sandbox: Target) -> None:
    """No process passes the limit (3 s) alone; all together do."""
    source = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    result = sandbox.run(Program.script(source, cpu_s=3))
    assert result.cause == "cpu_time", facts(result)
    assert result.cpu_s < 8


def test_sleeping_for_ever(sandbox: Target) -> None:
    result = sandbox.run(Program.script("import time; time.sleep(3600)", wall_s=0.5))
    assert result.cause == "wall_time", facts(result)


def test_sleeping_threads_that_nobody_joins(sandbox: Target) -> None:
    source = (
        "import threading, time\n"
        "for _ in range(5): threading.Thread(target=time.sleep, args=(3600,)).start()\n"
        "print('main is over', flush=True)\n"
    )
    result = sandbox.run(Program.script(source, wall_s=0.7))
    assert result.cause == "wall_time", facts(result)


def test_ignoring_signals(sandbox: Target) -> None:
    source = (
        "import signal\n"
        "for number in range(1, 65):\n"
        "    try: signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "while True: pass\n"
    )
    result = sandbox.run(Program.script(source, cpu_s=1))
    assert result.cause == "cpu_time", facts(result)


def test_blocking_signals(sandbox: Target) -> None:
    source = (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nsignal.pause()\n"
    )
    result = sandbox.run(Program.script(source, wall_s=0.5))
    assert result.cause == "wall_time", facts(result)


def test_daemon_that_outlives_its_parent(sandbox: Target) -> None:
    source = _RENAME.format(marker="daemon-left") + (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        for fd in range(4): os.close(fd)\n"
        "        time.sleep(60)\n"
        "    os._exit(0)\n"
        "time.sleep(0.1)\n"
        "print('parent is over')\n"
    )
    result = sandbox.run(Program.script(source))
    assert b"parent is over" in result.stdout, facts(result)
    assert result.wall_s < 10
    assert _processes_of("daemon-left") == []


def test_deep_recursion(sandbox: Target) -> None:
    source = "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nf(0)"
    result = sandbox.run(Program.script(source))
    stopped = (
        result.signal is not None
        or result.cause != ""
        or result.report.kind in ("raised", "syntax")
    )
    assert stopped, facts(result)


def test_crash_in_c(sandbox: Target) -> None:
    result = sandbox.run(Program.script("import ctypes; ctypes.string_at(0)"))
    assert result.signal == 11, facts(result)


def test_huge_integers(sandbox: Target) -> None:
    result = sandbox.run(Program.script("print(len(str(9 ** 9 ** 9)))", cpu_s=1))
    stopped = result.cause in ("cpu_time", "memory") or result.report.kind in ("raised", "syntax")
    assert stopped, facts(result)


def test_regular_expression_bomb(sandbox: Target) -> None:
    source = "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')"
    result = sandbox.run(Program.script(source, cpu_s=1))
    assert result.cause == "cpu_time", facts(result)


def test_source_that_exhausts_the_compiler(sandbox: Target) -> None:
    result = sandbox.run(Program.script("(" * 100_000 + ")" * 100_000))
    assert result.report.kind == "syntax" or result.signal is not None, facts(result)


def test_descriptors_are_bounded(sandbox: Target) -> None:
    source = (
        "import os\n"
        "made = 0\n"
        "try:\n"
        "    while made < 5000:\n"
        "        os.pipe(); made += 2\n"
        "except OSError as error:\n"
        "    print(made, error.errno)\n"
    )
    result = sandbox.run(Program.script(source))
    made, errno = map(int, result.stdout.split())
    assert made <= 64, facts(result)
    assert errno == 24


@pytest.mark.slow
def test_two_hundred_attacks_at_once(sandbox: Target) -> None:
    attacks = [
        ("while True: pass", {"cpu_time"}),
        (
            "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
            {"cpu_time", "processes"},
        ),
        ("while True: print('x' * 10000)", {"output"}),
        ("import time; time.sleep(3600)", {"wall_time"}),
    ]
    num = 200
    programs = [Program.script(attacks[n % 4][0], cpu_s=0.2, wall_s=4.0) for n in range(num)]
    crowd = Target(sandbox.kind, replace(SMALL, workers=20))
    try:
        results = crowd.run_many(programs)
    finally:
        crowd.inner.close()
    for n, result in enumerate(results):
        assert result.cause in attacks[n % 4][1] | {"wall_time"}, facts(result)
