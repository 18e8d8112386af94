"""What a shard's verdicts rest on: parts made on another basis are not gone on with.

Each verdict also names what it is about (`subject`), so that none is ever taken for another item's,
whatever became of the file that the item came from.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sdpo_megatron
from sdpo_megatron.judging.items import Item
from sdpo_megatron.judging.offline.config import OfflineConfig
from sdpo_megatron.tasks import Task
from sdpo_megatron.verifiers.base import import_path_of

BLOCK = 2**20
# Folders of ours whose code decides verdicts, and the libraries that verifiers ask.
_OURS = ("sandbox", "tasks", "verifiers")
_PACKAGES = ("if-verifiable", "latex2sympy2_extended", "math-verify", "sympy")


def basis(
    config: OfflineConfig, source: Path, verifiers: Iterable[str], task: Task | None
) -> dict[str, Any]:
    """Everything that decides the verdicts of a run, as plain data: files by their sha256."""
    sandbox = asdict(config.sandbox)
    del sandbox["workers"]  # how many at once decides nothing
    whole = {
        "input": _of_file(source),
        "part_size": config.part_size,
        "task": task and {"settings": asdict(config.task), "file": _of_file(task.path)},  # type: ignore[arg-type]
        "verifiers": {name: _own_code(name) for name in sorted(verifiers)},
        "limits": {
            "cpu_limit_s": config.cpu_limit_s,
            "memory_mib": config.memory_mib,
            "code": asdict(config.code),
            "sandbox": sandbox,
        },
        "versions": {
            "sdpo_megatron": sdpo_megatron.__version__,
            "code": _our_code(),
            "python": platform.python_version(),
            **{name: _installed(name) for name in _PACKAGES},
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(whole))  # tuples become lists, as in the file
    return plain


def differences(theirs: Any, mine: Any, path: str = "") -> Iterator[str]:
    """Where two bases differ: ``task.file: 9f86d0… then, 2c26b4… now``."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in sorted(theirs.keys() | mine.keys()):
            inside = f"{path}.{key}" if path else key
            yield from differences(theirs.get(key), mine.get(key), inside)
    elif theirs != mine:
        yield f"{path}: {_short(theirs)} then, {_short(mine)} now"


def subject(verifier: str, item: Item, response: str) -> str:
    """What a verdict is about, as a sha256: verifier, item and response, nothing else.

    Raises:
        BadItem: The item is not JSON.
    """
    text = json.dumps([verifier, item.sha256, response])
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _our_code() -> str:
    root = Path(sdpo_megatron.__file__).parent
    digest = hashlib.sha256()
    for folder in _OURS:
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}:{_of_file(file)}\n".encode())
    return digest.hexdigest()


def _own_code(verifier: str) -> str | None:
    """Of a user's verifier the sha256 of its module; ours are covered already."""
    module = import_path_of(verifier).partition(":")[0]
    if module.startswith(f"{sdpo_megatron.__name__}."):
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None  # its lines fail, and say so
    origin = spec and spec.origin
    return _of_file(Path(origin)) if origin and Path(origin).is_file() else None


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + "…" + text[-1]
