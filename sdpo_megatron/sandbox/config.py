"""Settings of the sandbox."""

from __future__ import annotations

from dataclasses import dataclass

from sdpo_megatron.errors import ConfigError

RUNNERS = ("zygote", "bubblewrap")

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
    "uid": "a uid of its own on the host for each run (needs root)",
    "cgroup_memory": "memory of the whole tree limited by the kernel",
    "cgroup_pids": "number of processes of the whole tree limited by the kernel",
}


@dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    """How untrusted programs are run. Limits are defaults that a program may lower or raise.

    Attributes:
        runner: "zygote" forks a pre-imported interpreter (fast); "bubblewrap" starts bwrap and a
            new interpreter.
        workers: How many runs at once; each is a small process. 0 means one per CPU that this
            process may use.
        wall_s: Wall time of one run, seconds; ends sleepers. Time in which the run was ready but
            the machine busy does not count (up to 5 times the limit).
        cpu_s: CPU time of all processes of one run together, seconds.
        memory_mb: Memory of all processes of one run together, MiB.
        output_kb: stdout and stderr, KiB each; a program that writes more is stopped.
        processes: Processes and threads of one run together.
        tmp_mb: Size of the run's private /tmp, MiB.
        open_files: Open descriptors of one process.
        packages: Import names of installed packages that programs may use, e.g. ("numpy",);
            imported in the zygote.
            Their folders become readable: never name a package that holds tests.
        minimum_layers: Names of isolation layers without which nothing is run (see `LAYERS`).
        disable_layers: Layers not to use even where they work; for tests of what each layer stops.
        first_uid: First host uid for runs; 64 per worker are taken from here up. Used only as root.
        python: Interpreter to start as the zygote; "" means this one.
    """

    runner: str = "zygote"
    workers: int = 0
    wall_s: float = 30.0
    cpu_s: float = 10.0
    memory_mb: int = 512
    output_kb: int = 1024
    processes: int = 16
    tmp_mb: int = 16
    open_files: int = 64
    packages: tuple[str, ...] = ()
    minimum_layers: tuple[str, ...] = (
        "pid",
        "net",
        "mount",
        "ipc",
        "seccomp",
        "rlimits",
        "accounting",
    )
    disable_layers: tuple[str, ...] = ()
    first_uid: int = 600_000
    python: str = ""

    def __post_init__(self) -> None:
        if self.runner not in RUNNERS:
            raise ConfigError(
                f"sandbox.runner is {self.runner!r}; choose one of {', '.join(RUNNERS)}"
            )
        for name in (
            "wall_s",
            "cpu_s",
            "memory_mb",
            "output_kb",
            "processes",
            "tmp_mb",
            "open_files",
            "first_uid",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"sandbox.{name} is {getattr(self, name)}; it must be above 0")
        if self.workers < 0:
            raise ConfigError(f"sandbox.workers is {self.workers}; use 0 (one per CPU) or more")
        if self.open_files < 16:
            raise ConfigError(
                f"sandbox.open_files is {self.open_files}; an interpreter needs at least 16"
            )
        for name in ("minimum_layers", "disable_layers"):
            unknown = sorted(set(getattr(self, name)) - set(LAYERS))
            if unknown:
                raise ConfigError(
                    f"sandbox.{name} names unknown layers {unknown}; known: {', '.join(LAYERS)}"
                )
