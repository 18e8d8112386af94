"""The end-to-end run without pods and without disturbance: what its weights must come to."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from sdpo_megatron.rendering.committed import K8S
from tests.cluster import cluster
from tests.rendering.k8s_folder import of_rendering, only

RENDERED = "overlays/end-to-end/rendered"
_HERE = (
    "rollout.engine.urls=[]",
    "rollout.engine.host=127.0.0.1",
    "rollout.workers.count=1",
    "rollout.workers.listen_address=''",
    "judge.where=local",
    "judge.endpoints=[]",
    "judge.token_file=null",
    "run.metrics_address=127.0.0.1",
    "run.metrics_port=0",
)
"""What pods have and this machine lacks; nothing of it is numeric."""


def checksums() -> dict[int, str]:
    """By policy version; trained anew when the sources or the configuration have changed."""
    text = only(of_rendering(RENDERED), "ConfigMap")["data"]["config.yaml"]
    folder = cluster.folder() / "undisturbed"
    stamp = folder / "of"
    if not stamp.is_file() or stamp.read_text() != _of(text):
        _train(text, folder)
        stamp.write_text(_of(text))
    return of_swaps(folder / "run")


def of_swaps(run: Path) -> dict[int, str]:
    """The checksum of each version that a run has published.

    Raises:
        AssertionError: A version was published twice with different weights.
    """
    found: dict[int, str] = {}
    for line in (run / "swaps.jsonl").read_text().splitlines():
        swap = json.loads(line)
        assert found.setdefault(swap["version"], swap["checksum"]) == swap["checksum"], swap
    return found


def _train(text: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(text)
    model = Path(yaml.safe_load(text)["model"]["path"]).name
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sdpo_megatron.cli", "train"),
            *("--config", folder / "config.yaml"),
            f"run.folder={folder / 'run'}",
            f"model.path={folder / model}",
            *_HERE,
        ],
        env=os.environ | {"PYTHONPATH": str(K8S.parent)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _of(text: str) -> str:
    parts = [text.encode()]
    for package in ("sdpo_megatron", "serving"):
        parts += [path.read_bytes() for path in sorted((K8S.parent / package).rglob("*.py"))]
    return hashlib.sha256(b"".join(parts)).hexdigest()
