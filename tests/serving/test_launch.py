"""Starting and stopping a real engine: every way it can go wrong ends with a message, and nothing
is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from sdpo_megatron.errors import EngineStartError
from serving.config import EngineConfig
from serving.launch import EngineProcess
from tests.serving.processes import eventually, running_with


def config(tag: str = "", **fields: object) -> EngineConfig:
    return EngineConfig(
        device="cpu",
        dtype="float32",
        threads=1,
        max_total_tokens=2048,
        extra_env=(f"TAG={tag}",),
        **fields,  # type: ignore[arg-type]
    )


@pytest.fixture
def tag() -> str:
    return f"launch-test-{uuid.uuid4()}"


def test_port_in_use_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        engine = EngineProcess(config(port=port), tiny_llama, tmp_path)
        with pytest.raises(
            EngineStartError, match=rf"port {port} on 127.0.0.1 .* in use.*set rollout.engine.port"
        ):
            engine.start()
    assert not engine.alive


def test_the_port_is_kept_for_the_engine(tiny_llama: Path, tmp_path: Path) -> None:
    """From the moment it is chosen: loading takes half a minute, in which the system would give it
    to the next one who asks for a free port."""
    engine = EngineProcess(config(), tiny_llama, tmp_path)
    engine.launch()
    with socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", engine.port))
        engine.close()
        other.bind(("127.0.0.1", engine.port))


@pytest.mark.slow
def test_a_port_taken_by_force_is_named(tiny_llama: Path, tmp_path: Path, tag: str) -> None:
    engine = EngineProcess(config(tag), tiny_llama, tmp_path)
    engine.launch()
    with (
        socket.create_server(("127.0.0.1", engine.port)),
        pytest.raises(EngineStartError, match=rf"port {engine.port} .*something else listens"),
    ):
        engine.wait_ready()
    assert running_with(tag) == []


def test_second_engine_takes_the_next_port(tiny_llama: Path, tmp_path: Path) -> None:
    assert EngineProcess(config(port=31000), tiny_llama, tmp_path, index=2).port == 31002


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match=f"{tmp_path} holds no config.json"):
        EngineProcess(config(), tmp_path, tmp_path).start()


def test_start_up_is_bounded(tiny_llama: Path, tmp_path: Path, tag: str) -> None:
    engine = EngineProcess(
        config(tag, start_timeout_s=0.5, stop_timeout_s=0.5), tiny_llama, tmp_path
    )
    with pytest.raises(
        EngineStartError,
        match=r"not ready within start_timeout_s = 0.5 s .it was at: importing SGLang",
    ):
        engine.start()
    assert not engine.alive
    assert running_with(tag) == []


def test_engine_killed_at_start_is_explained(tiny_llama: Path, tmp_path: Path, tag: str) -> None:
    engine = EngineProcess(config(tag), tiny_llama, tmp_path)
    heard: list[str] = []
    engine.launch(heard.append)
    engine.log_file.write_text("the last thing it said\n")
    assert eventually(lambda: len(running_with(tag)) >= 2)
    for pid in running_with(tag):
        if pid != engine.pid:
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(
        EngineStartError, match="engine 0 ended with status 137 while starting"
    ) as caught:
        engine.wait_ready()
    assert str(engine.log_file) in str(caught.value)
    assert str(caught.value).endswith("the last thing it said")
    assert heard == ["engine 0: importing SGLang"]
    assert running_with(tag) == []


@pytest.mark.slow
def test_refusal_of_a_flag_is_in_the_error(tiny_llama: Path, tmp_path: Path) -> None:
    engine = EngineProcess(config(extra_args=("--no-such-flag",)), tiny_llama, tmp_path)
    with pytest.raises(EngineStartError, match="unrecognized arguments: --no-such-flag"):
        engine.start()


PARENT = """
import sys, time
from serving.config import EngineConfig
from serving.launch import EngineProcess
config = EngineConfig(device="cpu", dtype="float32", threads=1, extra_env=("TAG={tag}",))
EngineProcess(config, {model!r}, {logs!r}).start(print)
print("started", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # several start-ups; minutes on a busy machine
def test_sigkill_of_the_parent_leaves_nothing(tiny_llama: Path, tmp_path: Path, tag: str) -> None:
    """With the real engine up: guardian, HTTP server, scheduler, detokenizer, resource tracker."""
    script = PARENT.format(tag=tag, model=str(tiny_llama), logs=str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        heard = []
        with parent.stdout:
            for line in parent.stdout:
                heard.append(line.strip())
                if heard[-1] == "started":
                    break
        assert "importing SGLang" in heard[0]
        assert "ready at http://127.0.0.1:" in heard[-2]
        assert len(running_with(tag)) >= 4
    finally:
        parent.kill()
        parent.wait()
    assert eventually(lambda: running_with(tag) == [], within_s=10)
