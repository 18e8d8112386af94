"""A real Prometheus scrapes a real run of a tiny model; every query of ours is asked of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.loops import runs
from tests.monitoring.real_prometheus import watch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not installed (apt-get install prometheus)",
    ),
]


def test_every_expression_is_answered_and_a_healthy_run_raises_no_alert(
    tiny_llama: Path, tmp_path: Path
) -> None:
    # Steps of several seconds, so that each is scraped.
    longer = ("rollout.sampling.max_new_tokens=20", "rollout.sampling.num_attempts=24")
    overrides = runs.overrides(tiny_llama, tmp_path / "run", *longer)
    answers = watch(tmp_path, overrides, ["code", "tests.loops.parity:EvenLength"])
    assert answers.up == {"trainer": 1.0, "engine": 1.0, "verifier": 1.0}
    assert answers.silent == ()
    assert answers.excused_wrongly == ()
    assert answers.failing_rules == ()
    assert answers.firing == ()
    assert answers.num_queries > 150
