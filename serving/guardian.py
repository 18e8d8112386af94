"""Runs one command and lets nothing of it outlive the process that asked for it.

    python -I -S guardian.py --parent PID --grace SECONDS -- COMMAND...

Trainer -> guardian -> engine -> the engine's own children.

The guardian ends all that is below it when
- the trainer is gone, however it went (SIGKILL included): it watches a pidfd of the trainer, which
  belongs to the process and not, like PR_SET_PDEATHSIG, to the thread that started us;
- it gets SIGTERM (SIGTERM to the engine first, SIGKILL after the grace period);
- the engine's main process ends by itself.

The guardian is a child subreaper, so descendants whose parent died are still its children. Should
it be killed itself, the kernel kills the engine (PR_SET_PDEATHSIG; the guardian has one thread),
and SGLang's children set the same for theirs.

What the command writes as temporary files goes with it: TMPDIR is a folder that the guardian
removes. (SGLang leaves its sockets and metric files behind, a dozen at each start.)

Standard library only, Linux only: it must start in milliseconds and stay small beside every engine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Started with -I -S, so that nothing of the environment can get in its way: our own folder is last.
sys.path.append(str(Path(__file__).resolve().parent.parent))
from sdpo_megatron.process_tree import adopt_orphans, descendants, die_with_parent


def main() -> int:
    """Exit status: that of the command (128 + signal when it was killed)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--grace", type=float, default=5.0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    adopt_orphans()
    stop_read, stop_write = os.pipe()
    os.set_blocking(stop_write, False)
    signal.set_wakeup_fd(stop_write)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    guardian = os.getpid()

    def before_exec() -> None:
        die_with_parent()
        if os.getppid() != guardian:
            os._exit(1)

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    temporary = tempfile.mkdtemp(prefix="sdpo-engine-")
    environment = os.environ | {"TMPDIR": temporary}
    engine = subprocess.Popen(
        command, start_new_session=True, preexec_fn=before_exec, env=environment
    )
    try:
        reason = wait_for_an_end(args.parent, engine, stop_read)
        if reason == "stopped":
            terminate(engine, args.grace)
    finally:
        kill_descendants()
        shutil.rmtree(temporary, ignore_errors=True)
    code = engine.wait()
    return 128 - code if code < 0 else code


def wait_for_an_end(parent: int, engine: subprocess.Popen[bytes], stop_read: int) -> str:
    """Block until the parent is gone ("orphaned"), a signal asks us to stop ("stopped") or the
    engine ends ("ended")."""
    poller = select.poll()
    poller.register(stop_read, select.POLLIN)
    reasons = {stop_read: "stopped"}
    for pid, reason in ((parent, "orphaned"), (engine.pid, "ended")):
        descriptor = _pidfd(pid)
        if descriptor is not None:
            poller.register(descriptor, select.POLLIN)
            reasons[descriptor] = reason
    # Without pidfds (some sandboxes), and against a parent that died before we watched it, look
    # twice a second.
    interval_ms = 500 if len(reasons) < 3 else 10_000
    while True:
        if os.getppid() != parent:
            return "orphaned"
        if engine.poll() is not None:
            return "ended"
        for descriptor, _ in poller.poll(interval_ms):
            return reasons[descriptor]


def terminate(engine: subprocess.Popen[bytes], grace_s: float) -> None:
    """Ask the engine to end and give it `grace_s` seconds."""
    engine.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):  # the caller kills what is left
        engine.wait(timeout=grace_s)


def kill_descendants() -> None:
    """SIGKILL every descendant until none runs.

    A dead parent's children become ours, since we are the subreaper.
    """
    deadline = time.monotonic() + 10.0
    while (running := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


if __name__ == "__main__":
    sys.exit(main())
