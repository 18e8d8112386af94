"""Settings of the sandbox."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sdpo_megatron.fields import Count, PositiveInt, Seconds, Text, Texts, refuse, settings

LAYERS: dict[str, str] = {
    "user": "user namespace: the program's uid means nothing outside",
    "pid": "pid namespace: others are out of sight and reach; the tree dies with its first process",
    "net": "network namespace: no interface but a loopback that is down",
    "mount": "mount namespace: mounts are the run's own",
    "ipc": "IPC namespace: no shared memory or message queues with others",
    "uts": "UTS namespace: the host's name is hidden",
    "private_root": "only the standard library and shared libraries are in sight, read-only",
    "private_tmp": "an empty tmpfs of limited size as /tmp, gone after the run",
    "landlock": "Landlock: reads the view, writes /tmp; no TCP, abstract sockets, signals outside",
    "seccomp": "seccomp: allowed system calls only (no sockets, exec, ptrace, new namespaces)",
    "rlimits": "rlimits: CPU time, address space, file size, descriptors, processes",
    "accounting": "a supervisor that samples CPU time, memory and processes of the whole tree",
    "uid": "a uid of its own on the host for each run (needs CAP_SETUID)",
    "cgroup_cpu": "CPU time of the whole tree counted by the kernel",
    "cgroup_memory": "memory of the whole tree limited by the kernel",
    "cgroup_pids": "number of processes of the whole tree limited by the kernel",
}

# What no limit holds where a layer is missing; for `sdpo doctor`.
UNBOUNDED: dict[str, str] = {
    "cgroup_memory": "memory between two samples (50 ms), and the kernel's buffers of pipes and "
    "sockets (up to open_files x processes x 208 KiB)",
    "cgroup_pids": "processes between two samples where runs share a uid",
    "cgroup_cpu": "CPU time between two samples",
    "private_tmp": "disk: the size of a file is limited, the number of files is not",
    "accounting": "CPU time and memory of a whole tree, but for cgroups",
    "rlimits": "descriptors, and the size of files",
}


# Below these no interpreter starts, whatever it is to run.
_MIN_MEMORY_MIB = 32
_MIN_OPEN_FILES = 16


# What judges of programs commonly have beside the standard library.
PUBLIC_PACKAGES = ("numpy", "sortedcontainers")


@settings
class RunLimits:
    """What one run may use."""

    cpu_s: Seconds = 10.0
    """CPU time of all processes of the run together, seconds."""

    wall_s: Seconds = 30.0
    """Wall time, seconds; ends sleepers. Time in which the run was ready but the machine busy does
    not count (up to 5 times the limit)."""

    memory_mib: Annotated[int, Field(ge=_MIN_MEMORY_MIB)] = 512
    """Memory of all processes of the run together, MiB."""

    output_kib: PositiveInt = 1024
    """stdout and stderr, KiB each; a program that writes more is stopped."""

    processes: PositiveInt = 16
    """Processes and threads of the run together."""


@settings
class SandboxConfig:
    """How untrusted programs are run. What one of them may use is said by who runs it
    (`RunLimits`; in training ``judge.code``)."""

    workers: Count = 0
    """How many runs at once; each is a small process. 0 means one per CPU that this process may
    use."""

    tmp_mib: PositiveInt = 16
    """Size of a run's private /tmp, MiB."""

    open_files: Annotated[int, Field(ge=_MIN_OPEN_FILES)] = 64
    """Open descriptors of one process."""

    packages: Texts = PUBLIC_PACKAGES
    """Import names of installed packages that programs may use. Those of the default that are not
    installed are left out; another one must be there.

    Their folders become readable: never name a package that holds tests. A program that imports
    none pays nothing for them. Where they lie below /tmp (an environment made there), a run's own
    /tmp hides them.
    """

    minimum_layers: Texts = ("pid", "net", "mount", "ipc", "seccomp", "rlimits", "accounting")
    """Names of isolation layers without which nothing is run (docs/security.md)."""

    disable_layers: Texts = ()
    """Layers not to use even where they work; for tests of what each layer stops."""

    first_uid: PositiveInt = 600_000
    """First host uid for runs; each worker of a host takes 64 from here up that no other holds.
    Used only where uids can be chosen."""

    python: Text = ""
    """Interpreter to start as the zygote; "" means this one."""

    def __post_init__(self) -> None:
        problems = []
        for name in ("minimum_layers", "disable_layers"):
            if unknown := sorted(set(getattr(self, name)) - set(LAYERS)):
                known = ", ".join(LAYERS)
                problems.append((name, f"no layers: {', '.join(unknown)}; known: {known}"))
        refuse(self, problems)
