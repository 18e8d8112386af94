"""The page of a verifier service keeps the conventions, and its counters count what they name."""

from __future__ import annotations

import shutil
import subprocess
from typing import get_args, get_type_hints

import pytest

from sdpo_megatron.judging.service.metrics import (
    KILLS,
    LIMITS,
    SANDBOX_LAYER_ACTIVE,
    SERVICE,
    VERDICTS,
    ServiceMetrics,
)
from sdpo_megatron.sandbox import LAYERS, RunResult
from sdpo_megatron.verifiers.base import graded
from tests.observability.boards import fill


def test_limits_are_those_that_end_a_program() -> None:
    assert {"", *LIMITS} == set(get_args(get_type_hints(RunResult)["cause"]))


def test_verdicts_are_counted_by_outcome_and_kills_by_limit() -> None:
    metrics = ServiceMetrics()
    for verdict in (
        graded(True),
        graded(False, outcome="wrong"),
        graded(False, outcome="memory"),
        graded(False, format_ok=False, outcome=["memory"]),
    ):
        metrics.count("code", verdict)
    outcomes = ("success", "wrong", "unreadable")
    counted = [metrics.value(VERDICTS.name, verifier="code", outcome=o) for o in outcomes]
    assert counted == [1.0, 2.0, 1.0]
    assert {limit: metrics.value(KILLS.name, limit=limit) for limit in LIMITS} == {
        **dict.fromkeys(LIMITS, 0.0),
        "memory": 1.0,
    }


def test_every_layer_is_shown_working_or_not() -> None:
    metrics = ServiceMetrics()
    metrics.show_layers(("seccomp", "rlimits"))
    shown = {n: metrics.value(SANDBOX_LAYER_ACTIVE.name, layer=n) for n in LAYERS}
    assert shown == {name: float(name in ("seccomp", "rlimits")) for name in LAYERS}


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (apt-get install prometheus)",
)
def test_promtool_accepts_the_page() -> None:
    metrics = ServiceMetrics()
    fill(metrics, SERVICE)
    page = metrics.page().decode()
    assert all(f"# HELP {series.name} " in page for series in SERVICE)
    assert "_created" not in page
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page, text=True, capture_output=True, timeout=60
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
