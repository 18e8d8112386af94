"""Slurm's own daemons on loopback: one controller, and a slurmd for each of a few machines that are
all this one. As root, with everything in one folder; ended with the block."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdpo_megatron.ports import hold_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_START_S = 60.0

# Nodes are named by addresses of loopback, so that what `scontrol show hostnames` says resolves.
_CONFIG = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=30
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no cluster can be had here; "" when it can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return (
            f"Slurm is not here ({', '.join(absent)}): "
            "apt-get install slurmctld slurmd slurm-client munge"
        )
    return "" if os.geteuid() == 0 else "slurmd starts jobs as their users: it needs root"


@dataclass(frozen=True)
class Cluster:
    """A running one.

    Attributes:
        folder: Its files, logs too.
        environment: What makes Slurm's programs ask this one.
    """

    folder: Path
    environment: Mapping[str, str]

    def state(self, job: str) -> tuple[str, str]:
        """State and exit code of a job, as scontrol shows them."""
        said = _run(["scontrol", "show", "job", job, "-o"], self.environment)
        fields = dict(word.partition("=")[::2] for word in said.splitlines()[0].split())
        return fields["JobState"], fields["ExitCode"]

    def wait(self, job: str, limit_s: float) -> tuple[str, str]:
        """The same once it has ended."""
        end = time.monotonic() + limit_s
        while (found := self.state(job))[0] in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            assert time.monotonic() < end, f"job {job} is {found[0]} after {limit_s:g} s"
            time.sleep(1.0)
        return found


@contextlib.contextmanager
def cluster(folder: Path, machines: int) -> Iterator[Cluster]:
    """One of `machines` machines, each with all the cores there are."""
    with contextlib.ExitStack() as held:
        ports = [
            held.enter_context(hold_port("127.0.0.1")).getsockname()[1] for _ in range(machines + 1)
        ]
    names = [f"127.0.0.{number + 2}" for number in range(machines)]
    host = socket.gethostname()
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={os.cpu_count()} State=UNKNOWN"
        for name, port in zip(names, ports[1:], strict=True)
    )
    config = folder / "slurm.conf"
    config.write_text(_CONFIG.format(host=host, port=ports[0], folder=folder, nodes=nodes))
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    environment = os.environ | {
        "SLURM_CONF": str(config),
        "PATH": f"{os.environ['PATH']}:/usr/sbin",
    }
    daemons = [
        [
            *("munged", "--foreground", "--force", f"--key-file={folder}/munge.key"),
            *(f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"),
            *(f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"),
        ],
        ["slurmctld", "-D", "-i"],
        *(["slurmd", "-D", "-N", name] for name in names),
    ]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in daemons:
            with (folder / f"{command[0]}-{len(running)}.out").open("wb") as log:
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if command[0] == "munged":
                _until((folder / "munge.socket").exists, running, folder)
        _until(lambda: _idle(environment) == machines, running, folder)
        yield Cluster(folder, environment)
    finally:
        for daemon in reversed(running):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _idle(environment: Mapping[str, str]) -> int:
    said = subprocess.run(
        ["sinfo", "--noheader", "--Node", "-o", "%t"],
        env=environment,
        capture_output=True,
        text=True,
    )
    return said.stdout.split().count("idle")


def _until(ready: Callable[[], bool], running: list[subprocess.Popen[bytes]], folder: Path) -> None:
    end = time.monotonic() + _START_S
    while not ready():
        ended = [daemon.args for daemon in running if daemon.poll() is not None]
        assert not ended, f"{ended} ended; logs in {folder}"
        assert time.monotonic() < end, f"not ready after {_START_S:g} s; logs in {folder}"
        time.sleep(0.2)


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout
