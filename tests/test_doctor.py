"""The doctor finds what is there, and says what to do about what is not."""

from __future__ import annotations

import importlib.metadata
import json
import socket
from pathlib import Path

import pytest

from sdpo_megatron import doctor, sandbox
from sdpo_megatron.doctor import Finding, diagnose, main
from sdpo_megatron.weights import smollm2


def _by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_this_environment_is_ready() -> None:
    findings = diagnose()
    # How much memory and disk others have taken meanwhile says nothing about this code.
    missing = [f for f in findings if f.status == "missing" and f.area != "machine"]
    assert missing == []
    found = _by_name(findings)
    assert found["torch"].detail == importlib.metadata.version("torch")
    assert found["SmolLM2-135M"].status == "ok"
    assert found["layers"].area == "sandbox"
    assert {"memory", "disk", "9400", "CPU", "Python"} <= set(found)


def test_everything_that_is_not_ok_says_what_to_do_or_that_nothing_is_needed() -> None:
    for finding in diagnose():
        assert finding.detail
        assert finding.status in ("ok", "note") or finding.remedy, finding


def test_an_absent_package_is_missing_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda n: None if n == "sglang" else installed(n))
    assert main(["--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["ok"] is False
    by_name = {f["name"]: f for f in record["findings"]}
    assert by_name["sglang"]["status"] == "missing"
    assert by_name["sglang"]["remedy"] == "make setup"
    assert "absent: sglang" in by_name["lock"]["detail"]


def test_another_version_than_the_locks_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda n: "9.9" if n == "numpy" else installed(n))
    finding = _by_name(list(doctor._check_packages()))["lock"]
    assert finding.status == "warning"
    assert "numpy 9.9 (lock: " in finding.detail


def test_a_gpu_environment_is_compared_with_the_lock_for_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pins = doctor._read_lock(doctor._ROOT / "requirements" / "gpu.txt")
    monkeypatch.setattr(doctor, "_installed", pins.get)
    finding = _by_name(list(doctor._check_packages()))["lock"]
    assert finding.status == "ok"
    assert finding.detail.endswith("packages as pinned in requirements/gpu.txt")
    monkeypatch.setattr(doctor, "_installed", {**pins, "onnx": "0.1"}.get)
    finding = _by_name(list(doctor._check_packages()))["lock"]
    assert "onnx 0.1 (lock: " in finding.detail
    assert "requirements/gpu.txt" in finding.remedy


def test_a_damaged_model_file_is_found_by_its_checksum(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    damaged = tmp_path / "model.gguf"
    damaged.write_bytes(b"GGUF damaged")
    monkeypatch.setattr(smollm2, "gguf_path", lambda: damaged)
    (finding,) = doctor._check_model()
    assert finding.status == "missing"
    assert "expected b179c952" in finding.detail
    assert "force-reinstall" in finding.remedy


def test_an_absent_layer_is_missing_when_it_is_needed_and_a_warning_when_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = dict.fromkeys(sandbox.LAYERS, True)
    states |= {"seccomp": "the kernel has none", "landlock": "kernel 5.4"}
    monkeypatch.setattr(sandbox, "detect_layers", lambda: states)
    found = _by_name(list(doctor._check_sandbox()))
    assert found["seccomp"].status == "missing"
    assert found["seccomp"].detail.startswith("the kernel has none (")
    assert found["landlock"].status == "warning"
    assert "net" in found["layers"].detail.split(", ")
    assert "seccomp" not in found["layers"].detail


def test_a_sandbox_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError("clone: operation not permitted")

    monkeypatch.setattr(sandbox, "detect_layers", refuse)
    (finding,) = doctor._check_sandbox()
    assert finding.status == "missing"
    assert "PermissionError: clone: operation not permitted" in finding.detail


def test_a_taken_port_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(doctor, "_PORTS", {port: "metrics"})
        (taken,) = doctor._check_ports()
    (free,) = doctor._check_ports()
    assert (taken.status, free.status) == ("warning", "ok")
    assert "in use" in taken.detail


@pytest.mark.parametrize(
    ("gib", "status"), [(20.0, "ok"), (12.0, "ok"), (8.0, "warning"), (5.9, "missing")]
)
def test_memory_thresholds(gib: float, status: str) -> None:
    finding = doctor._enough("memory", int(gib * 2**30), 12, 6, "detail", "close other programs")
    assert finding.status == status


def test_the_table_fits_80_cells_and_ends_with_the_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(doctor, "_CHECKS", (doctor._check_packages, doctor._check_device))
    assert main([]) == 0
    lines = capsys.readouterr().out.rstrip().split("\n")
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "ready for a local run"
