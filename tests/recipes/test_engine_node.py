"""Engines on machines of their own: ports, GPUs, and how the program ends."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from recipes import engine_node
from recipes.engine_node import engine_configs, main
from sdpo_megatron import config as configs
from sdpo_megatron.exit_codes import DONE, FAILED
from serving.command import engine_command, engine_environment
from serving.config import EngineConfig


def test_each_engine_has_its_port_and_its_gpus() -> None:
    config = EngineConfig(device="cuda", tp=2, num_engines=8, urls=("http://elsewhere:1",))
    found = engine_configs(config, 4, 30000)
    assert [one.port for one in found] == [30000, 30001, 30002, 30003]
    assert [one.gpus for one in found] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    visible = [engine_environment(one)["CUDA_VISIBLE_DEVICES"] for one in found]
    assert visible == ["0,1", "2,3", "4,5", "6,7"]
    words = engine_command(found[1], Path("/m"), found[1].port, 0)
    assert words[words.index("--host") + 1] == "0.0.0.0"
    assert words[words.index("--port") + 1] == "30001"


def test_engines_on_a_cpu_name_no_gpus() -> None:
    assert [one.gpus for one in engine_configs(EngineConfig(device="cpu"), 2, 1)] == [(), ()]


class _Engine:
    """Stands for EngineProcess, whose own start is tested in tests/serving: `alive` is scripted."""

    lives = True

    def __init__(self, config: EngineConfig, model: str, logs: Path, *, seed: int) -> None:
        self.url, self.log_file, self.closed = f"http://here:{config.port}", logs / "log", False
        type(self).made.append(self)

    made: list[Any] = []  # noqa: RUF012

    @property
    def alive(self) -> bool:
        return self.lives

    def launch(self, progress: object) -> None: ...

    def wait_ready(self, progress: object) -> None: ...

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    config = configs.load(["experiment=quickstart"])
    configs.save(config, tmp_path / "run.yaml")
    monkeypatch.setattr(engine_node, "EngineProcess", _Engine)
    monkeypatch.setattr(engine_node, "_POLL_S", 0.01)
    monkeypatch.setattr(_Engine, "made", [])
    monkeypatch.setattr(_Engine, "lives", True)
    return [str(tmp_path / "run.yaml"), "--engines", "2", "--first-port", "30000"]


def test_the_end_of_one_engine_is_a_failure_and_ends_all(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_Engine, "lives", False)
    assert main(arguments) == FAILED
    assert [engine.closed for engine in _Engine.made] == [True, True]
    assert "sdpo: http://here:30001 is ready" in capsys.readouterr().out


def test_after_sigterm_they_serve_on_for_a_while(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine_node, "LINGER_S", 0.05)
    previous = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        assert main(arguments) == DONE
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, previous)
    assert "serving the trainer for 0.05 s more at most" in capsys.readouterr().out


def test_a_file_that_is_no_configuration_is_a_users_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("- 1\n")
    words = [str(tmp_path / "run.yaml"), "--engines", "1", "--first-port", "1"]
    assert main(words) == 2
    assert "holds no settings" in capsys.readouterr().err
