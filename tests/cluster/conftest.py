"""The cluster, its images, and the folder behind the claim of runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import cluster, undisturbed

REPOSITORY = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them need a cluster, and minutes."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.timeout(1800))
        if not cluster.cluster_command():
            reason = f"NO CLUSTER: {cluster.VARIABLE} must name a command that brings one up"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def image() -> Iterator[Callable[[str], None]]:
    """A cluster; call it with "verifier", "trainer" or "prometheus" for that image."""
    folder, there = cluster.folder(), set[str]()

    def import_(name: str) -> None:
        if name not in there:
            subprocess.run([REPOSITORY / "tests/cluster/images.sh", folder, name], check=True)
            archive = str(folder / f"sdpo-{name}.tar")
            cluster.call("ctr", "images", "import", archive, timeout_s=900.0)
            there.add(name)

    cluster.call("up", timeout_s=300.0)
    try:
        yield import_
    finally:
        cluster.call("down", timeout_s=180.0)


def made_runs() -> Path:
    """The folder of the host behind the claim of runs. The model of an earlier time is kept."""
    folder = cluster.folder() / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.name != "models":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    os.chown(folder, 10001, 10001)  # a folder of the host ignores fsGroup
    return folder


@pytest.fixture(scope="session")
def checksums() -> dict[int, str]:
    """By policy version, of the end-to-end run that nobody disturbs."""
    return undisturbed.checksums()
