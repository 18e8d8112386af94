"""Where the time of an isolated run goes: by process, by stage, by layer.

    python benchmarks/sandbox.py --profile [--runs 300]

By process: CPU time and minor page faults from /proc. By stage: where `perf` is installed and may
trace (root), from the system calls and page faults of the processes of a run; tracing slows all of
them, so read shares, not times. By layer: sandboxes that lack it, taking turns.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from sdpo_megatron.sandbox import LAYERS, Program, Sandbox, SandboxConfig
from sdpo_megatron.sandbox.inside.fence import linux, syscall_table

PROGRAM = Program.script("pass")
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
_MS, _US = 1e3, 1e6

# A child's stages in their order, each with the calls that begin it.
STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("cloned, on the way to the fence", ()),
    ("cgroups", ("write",)),
    ("/tmp", ("mount",)),
    ("uid, group, capabilities", ("setresgid", "chdir")),
    ("Landlock", ("openat", "landlock_create_ruleset")),
    ("descriptors", ("dup3",)),
    ("rlimits", ("prlimit64",)),
    ("last filter", ("seccomp",)),
    ("confined, on the way to the job", ("write",)),
    ("job read, program compiled and run", ("read",)),
    ("stated, on the way out", ("write",)),
    ("gone", ("exit_group",)),
)
WITHOUT: dict[str, tuple[str, ...]] = {
    "all layers": (),
    "without seccomp": ("seccomp",),
    "without landlock": ("landlock",),
    "without cgroups": ("cgroup_memory", "cgroup_pids", "cgroup_cpu"),
    "without uid": ("uid",),
    "without mount (root, /tmp)": ("mount",),
    "without any namespace": ("user", "pid", "net", "mount", "ipc", "uts"),
    "without any layer": tuple(LAYERS),
}


class Used(NamedTuple):
    """CPU time, ms, and minor page faults, of a process and of its children that it waited for."""

    cpu_ms: float
    faults: int
    children_cpu_ms: float
    children_faults: int

    def since(self, before: Used) -> Used:
        return Used(*(after - start for after, start in zip(self, before, strict=True)))


def used(pid: int) -> Used:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    minor, minor_of_children = int(fields[7]), int(fields[8])
    user, system, user_of_children, system_of_children = map(int, fields[11:15])
    return Used(
        (user + system) * _TICK_MS,
        minor,
        (user_of_children + system_of_children) * _TICK_MS,
        minor_of_children,
    )


class Family:
    """The processes of a sandbox with one worker."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.worker = next(iter(sandbox._indices))
        children = Path(f"/proc/{self.worker}/task/{self.worker}/children").read_text()
        self.template = int(children.split()[0])


def by_process(sandbox: Sandbox, runs: int) -> dict[str, tuple[float, float]]:
    """CPU ms and page faults of each process, per run."""
    family = Family(sandbox)
    pids = {"host": os.getpid(), "worker": family.worker, "template": family.template}
    before = {name: used(pid) for name, pid in pids.items()}
    for _ in range(runs):
        sandbox.run(PROGRAM)
    spent = {name: used(pid).since(before[name]) for name, pid in pids.items()}
    rows = {name: (spent[name].cpu_ms / runs, spent[name].faults / runs) for name in pids}
    worker = spent["worker"]
    rows["the run itself"] = worker.children_cpu_ms / runs, worker.children_faults / runs
    rows["all"] = sum(cpu for cpu, _ in rows.values()), sum(faults for _, faults in rows.values())
    return rows


def by_layer(runs: int, rounds: int = 6) -> dict[str, float]:
    """CPU ms of a run, by what is switched off; all take turns. What the kernel does later, on
    nobody's account (network namespaces), is not in it."""
    spent = dict.fromkeys(WITHOUT, 0.0)
    share = max(1, runs // rounds)
    with ExitStack() as stack:
        sandboxes = {
            name: stack.enter_context(
                Sandbox(SandboxConfig(workers=1, disable_layers=layers, minimum_layers=()))
            )
            for name, layers in WITHOUT.items()
        }
        for turn in range(rounds + 1):
            for name, sandbox in sandboxes.items():
                cpu_ms, _ = by_process(sandbox, share)["all"]
                spent[name] += cpu_ms / rounds if turn else 0.0  # the first warms up
    return spent


class Event(NamedTuple):
    """One system call's beginning, or a page fault (`call` is "")."""

    pid: int
    time_s: float
    call: str


@contextmanager
def _recording(pids: list[int], path: Path) -> Iterator[None]:
    events = ["-e", "exceptions:page_fault_user", "-e", "raw_syscalls:sys_enter"]
    command = ["perf", "record", *events, "-c", "1", "-p", ",".join(map(str, pids)), "-o", path]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as perf:
        time.sleep(1.0)  # until it is attached
        try:
            yield
        finally:
            perf.send_signal(signal.SIGINT)
            _, problem = perf.communicate()
    if not path.exists():
        raise OSError(f"perf cannot trace here: {problem.decode().strip()}")


def _events(path: Path) -> Iterator[Event]:
    listed = subprocess.run(
        ["perf", "script", "-i", path, "-F", "pid,time,event,trace"],
        capture_output=True,
        text=True,
        check=True,
    )
    numbers, _ = syscall_table.table(linux.MACHINE)
    numbers |= syscall_table.template_calls(linux.MACHINE)
    names = {number: name for name, number in numbers.items()}
    for line in listed.stdout.splitlines():
        match = re.match(r"\s*(\d+)\s+([\d.]+):\s+\S*?(page_fault_user|sys_enter):\s*(.*)", line)
        if match:
            pid, moment, _, rest = match.groups()
            number = re.match(r"NR (\d+)", rest)
            call = names.get(int(number.group(1)), number.group(1)) if number else ""
            yield Event(int(pid), float(moment), call)


def by_stage(sandbox: Sandbox, runs: int) -> dict[str, tuple[float, float]]:
    """Wall us and page faults of each stage of a run's process, medians. Raises OSError where
    nothing can be traced."""
    family = Family(sandbox)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "perf.data"
        with _recording([family.worker, family.template], path):
            for _ in range(runs):
                sandbox.run(PROGRAM)
        children: dict[int, list[Event]] = defaultdict(list)
        for event in _events(path):
            if event.pid not in (family.worker, family.template):
                children[event.pid].append(event)
    stages: dict[str, list[tuple[float, int]]] = {name: [] for name, _ in STAGES}
    for events in children.values():
        if events[-1].call == "exit_group":
            for name, spent in _stages_of(events).items():
                stages[name].append(spent)
    return {
        name: (
            statistics.median(time_s for time_s, _ in spent) * _US,
            statistics.median(faults for _, faults in spent),
        )
        for name, spent in stages.items()
        if spent and name != STAGES[-1][0]
    }


def _stages_of(events: list[Event]) -> dict[str, tuple[float, int]]:
    """Seconds and faults of one child by stage."""
    at, start, faults = 0, events[0].time_s, 0
    found = {}
    for event in events:
        faults += not event.call
        following = at
        if event.call not in STAGES[at][1]:
            later = range(at + 1, len(STAGES))
            following = next((n for n in later if event.call in STAGES[n][1]), at)
        if following != at:
            found[STAGES[at][0]] = event.time_s - start, faults
            at, start, faults = following, event.time_s, 0
    return found


def profile(runs: int) -> None:
    """Prints the three tables."""
    with Sandbox(SandboxConfig(workers=1)) as sandbox:
        for _ in range(20):
            sandbox.run(PROGRAM)
        _print("by process", ("CPU ms", "faults"), by_process(sandbox, runs))
        if shutil.which("perf") and os.geteuid() == 0:
            rows = by_stage(sandbox, min(runs, 50))
            _print("a run's process by stage, traced", ("us", "faults"), rows)
        else:
            print("by stage: needs perf, and root\n")
    cpu_ms = by_layer(runs)
    full = cpu_ms["all layers"]
    rows = {name: (ms, 100 * ms / full) for name, ms in cpu_ms.items()}
    _print("by layer", ("CPU ms", "%"), rows)


def _print(title: str, columns: tuple[str, str], rows: dict[str, tuple[float, float]]) -> None:
    print(f"{title:44}{columns[0]:>10}{columns[1]:>10}")
    for name, (first, second) in rows.items():
        print(f"  {name:42}{first:>10.2f}{second:>10.1f}")
    print()
