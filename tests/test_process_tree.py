"""The process tree, on real processes."""

from __future__ import annotations

import os
import subprocess
import sys

from sdpo_megatron.process_tree import descendants

CHILD = "import subprocess, sys; p = subprocess.Popen(['cat']); print(p.pid, flush=True); p.wait()"
ORPHAN = """
import os, signal
from sdpo_megatron.process_tree import adopt_orphans, descendants
adopt_orphans()
read, _write = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.read(read, 1)  # until it is killed
    os._exit(0)
os.wait()
found = descendants(os.getpid())
for pid in found:
    os.kill(pid, signal.SIGKILL)
print(len(found), os.waitpid(-1, 0)[0] in found)
"""


def test_children_and_grandchildren_are_found_and_the_dead_are_not() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    assert {child.pid, grandchild} <= set(descendants(os.getpid()))
    assert descendants(child.pid) == [grandchild]
    child.stdin.close()  # the end of cat, and so of its parent
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet waited for
    assert child.pid not in descendants(os.getpid())
    child.wait()
    child.stdout.close()


def test_an_orphan_belongs_to_whoever_adopts() -> None:
    found = subprocess.run(
        [sys.executable, "-c", ORPHAN], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["1", "True"]


def test_a_child_dies_with_its_parent() -> None:
    program = (
        "import os, signal, sys, time\n"
        "from sdpo_megatron.process_tree import die_with_parent\n"
        "if os.fork() == 0:\n"
        "    die_with_parent()\n"
        "    os.write(1, b'ready\\n')\n"
        "    time.sleep(600)\n"
        "sys.stdin.readline()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    assert parent.stdout.read() == ""  # ends when the child, which holds the pipe too, has ended
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
