"""What a Prometheus server gets, over a real socket."""

from __future__ import annotations

import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.exporter import Exporter, ExporterConfig
from sdpo_megatron.observability.metrics import reconcile
from sdpo_megatron.observability.series import SERIES
from tests.observability.boards import filled_board


def _report(step: int, **values: float) -> StepReport:
    keys = {key.replace("__", "/"): value for key, value in values.items()}
    return StepReport(step=step, policy_version=step, metrics=reconcile(keys, strict=False))


@contextmanager
def _exporter(port: int = 0) -> Iterator[tuple[Exporter, list[str]]]:
    warnings: list[str] = []
    exporter = Exporter(ExporterConfig(port=port), warnings.append, Board())
    try:
        yield exporter, warnings
    finally:
        exporter.close()


def _scrape(exporter: Exporter) -> str:
    url = f"http://127.0.0.1:{exporter.port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def _samples(text: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("le", "+Inf") == "+Inf"
    }


def test_values_reach_a_scraper() -> None:
    warnings: list[str] = []
    board = Board()
    with closing(Exporter(ExporterConfig(port=0), warnings.append, board)) as exporter:
        board.publish(_report(1, rollout__attempts=32, train__loss=0.25, time__step_s=18.0))
        board.publish(_report(2, rollout__attempts=30, train__loss=0.125, time__step_s=4.0))
        samples = _samples(_scrape(exporter))
    assert warnings == []
    assert samples["sdpo_train_loss"] == 0.125
    assert samples["sdpo_rollout_attempts_total"] == 62.0
    assert samples["sdpo_step_seconds_count"] == 2.0
    assert samples["sdpo_step_seconds_sum"] == 22.0
    assert samples["sdpo_step"] == 2.0
    assert "process_resident_memory_bytes" in samples
    assert "sdpo_teacher_null_kl" not in samples  # not measured: absent, not 0


@contextmanager
def _taken_ports(count: int) -> Iterator[int]:
    """A port such that it and the next `count` - 1 the exporter would try are taken."""
    sockets: list[socket.socket] = []
    while not sockets:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        try:
            for n in range(count):
                sockets.append(socket.create_server(("127.0.0.1", first + 10 * n)))
        except (OSError, OverflowError):
            while sockets:
                sockets.pop().close()
    try:
        yield first
    finally:
        for taken in sockets:
            taken.close()


def test_a_port_in_use_is_stepped_over_with_a_warning() -> None:
    with _taken_ports(1) as port, _exporter(port) as (exporter, warnings):
        assert exporter.port is not None
        assert exporter.port > port
        assert (exporter.port - port) % 10 == 0
        assert len(warnings) == 1
        assert f"port {port} on 127.0.0.1 is in use" in warnings[0]
        assert f":{exporter.port}/metrics" in warnings[0]
        assert "sdpo_step" in _scrape(exporter)


def test_without_any_port_training_goes_on() -> None:
    with _taken_ports(5) as port, _exporter(port) as (exporter, warnings):
        assert exporter.port is None
        assert "goes on without Prometheus metrics" in warnings[0]
        assert str(port + 40) in warnings[0]


def test_it_listens_where_it_is_told() -> None:
    """127.0.0.2 is this machine, too, but nobody reaches an exporter there by 127.0.0.1."""
    exporter = Exporter(ExporterConfig(address="127.0.0.2", port=0), pytest.fail, filled_board())
    with closing(exporter):
        url = f"http://127.0.0.2:{exporter.port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            assert b"sdpo_step" in response.read()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", exporter.port or 0), timeout=10)


def test_an_address_that_is_not_ours_is_a_warning() -> None:
    warnings: list[str] = []
    exporter = Exporter(ExporterConfig(address="203.0.113.1"), warnings.append, Board())
    assert exporter.port is None
    assert "on 203.0.113.1 can be opened" in warnings[0]
    assert "set run.metrics_address" in warnings[0]


def test_disabled_opens_nothing() -> None:
    assert Exporter(ExporterConfig(enabled=False), pytest.fail, Board()).port is None


def test_an_impossible_port_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="port=70000: must be at most 65535"):
        ExporterConfig(port=70000)


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (apt-get install prometheus)",
)
def test_promtool_accepts_the_page() -> None:
    board = filled_board()
    with closing(Exporter(ExporterConfig(port=0), pytest.fail, board)) as exporter:
        page = _scrape(exporter)
    assert {series.name.removesuffix("_total") for series in SERIES} <= {
        family.name for family in text_string_to_metric_families(page)
    }
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page, text=True, capture_output=True, timeout=60
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
