"""Rules for every test: no network but loopback, no model hub, metrics exactly as declared; and how
several workers share the tests.

tests/conftest.py holds the fixtures.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import Any

import hypothesis
import pytest

# Before anything imports torch or transformers, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SDPO_STRICT_METRICS"] = "1"


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: a connection that would leave this machine is an error in the test's process."""
    if event != "socket.connect" or not isinstance(arguments[1], tuple):
        return  # a unix socket's address is a string
    # Connecting a UDP socket sends nothing: it is how a program learns its own address.
    if arguments[0].type != socket.SOCK_DGRAM and not _is_here(str(arguments[1][0])):
        raise PermissionError(f"tests run without a network: connection to {arguments[1]} refused")


def _is_here(host: str) -> bool:
    if host in ("", "localhost", "0.0.0.0", "::", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:  # another name
        return False


# A deadline would make a busy machine a failure; pytest-timeout catches what hangs.
# Continuous integration draws the same cases each time, so that a red run is about the change.
hypothesis.settings.register_profile(
    "sdpo",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("sdpo")

sys.addaudithook(_refuse_network)


# With several pytest workers (`make test`), the tests of a file stay together, and so do these:
_TOGETHER = {
    "tests/loops/test_resume.py": "resume",  # the longest file: it starts first
    "tests/sandbox/": "judging",  # attacks that use up processes, memory and descriptors
    "tests/verifiers/": "judging",
    "tests/judging/": "judging",
    "tests/serving/test_engine.py": "engine",  # one engine serves both
    "tests/rollout/test_sampler.py": "engine",
}


def _group(nodeid: str) -> str:
    """Whoever runs one test of a group runs them all, one by one."""
    file = nodeid.partition("::")[0]
    return next((name for start, name in _TOGETHER.items() if file.startswith(start)), file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The groups of `_TOGETHER` first, so that no worker is left alone with a long one."""
    order = {name: place for place, name in enumerate(dict.fromkeys(_TOGETHER.values()))}
    items.sort(key=lambda item: order.get(_group(item.nodeid), len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups go to workers in the order of collection. (pytest-xdist's own marks for groups, 3.8.0,
    have no effect under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)
