"""What `rollout.engine.transport` means for which engines, and where it cannot work."""

from __future__ import annotations

from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError
from serving.config import EngineConfig
from serving.transports.transport import resolve_transport

URLS = {"urls": ("http://engine:30000",)}
CPU, CUDA = {"device": "cpu"}, {"device": "cuda"}


@pytest.mark.parametrize(
    ("engine", "where", "due"),
    [
        (CPU, {}, "tensor"),
        (CUDA, {}, "distributed"),
        (CUDA, {"shares_gpus": True}, "disk"),
        (URLS, {}, "disk"),
        (CPU, {"one_machine": False}, "disk"),
        (CPU, {"num_bytes": 1 << 60}, "distributed"),  # shared memory does not hold them
        (CPU | {"transport": "disk"}, {}, "disk"),
        (CPU | {"transport": "distributed"}, {}, "distributed"),
        (URLS | {"transport": "distributed"}, {"one_machine": False}, "distributed"),
        (CUDA | {"transport": "tensor"}, {"shares_gpus": True}, "tensor"),
    ],
)
def test_what_is_used(engine: dict[str, Any], where: dict[str, Any], due: str) -> None:
    assert resolve_transport(EngineConfig(**engine), **where) == due


@pytest.mark.parametrize(
    ("engine", "where", "problem"),
    [
        (CUDA | {"transport": "tensor"}, {}, "an engine sees its own GPUs alone.*distributed"),
        (CUDA | {"transport": "distributed"}, {"shares_gpus": True}, "two ranks on one GPU"),
        (CPU | {"transport": "tensor"}, {"one_machine": False}, "rank 0's machine alone.*disk"),
    ],
)
def test_what_cannot_work(engine: dict[str, Any], where: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=rf"rollout\.engine\.transport=.*{problem}"):
        resolve_transport(EngineConfig(**engine), **where)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (URLS | {"transport": "tensor"}, "needs engines on this machine"),
        ({"gateway": "http://gateway:1"}, "needs .*urls"),
        (URLS | {"gateway": "gateway:1"}, "must begin with http"),
    ],
)
def test_settings_that_contradict_each_other(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        EngineConfig(**fields)
