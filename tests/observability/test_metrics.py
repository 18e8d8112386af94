"""Declarations are sound, and a report that does not fit them is found."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from pathlib import Path

import pytest

from sdpo_megatron.observability.metrics import (
    BY_KEY,
    METRICS,
    MISMATCHES,
    UndeclaredMetric,
    reconcile,
)
from sdpo_megatron.observability.series import SERIES

REPOSITORY = Path(__file__).parents[2]
REQUIRED = {m.key: 0.5 for m in METRICS if m.kind != "counter" and m.presence != "maybe"}


def test_keys_and_prometheus_names_are_unique_and_well_formed() -> None:
    assert [k for k, n in Counter(m.key for m in METRICS).items() if n > 1] == []
    assert [k for k, n in Counter(series.name for series in SERIES).items() if n > 1] == []
    for series in SERIES:
        assert re.fullmatch(r"sdpo_[a-z0-9_]+", series.name), series.name
        assert "|" not in series.help, f"{series.name}: would break the table in docs/metrics.md"
    for metric in METRICS:
        assert re.fullmatch(r"[a-z]+/[a-z0-9_]+", metric.key), metric.key
        assert len(metric.help) > 10, metric.key
        assert "|" not in metric.help, f"{metric.key}: would break the table in docs/metrics.md"


def test_prometheus_conventions_of_units_and_counters() -> None:
    for metric in SERIES:
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name
        if metric.unit == "s":
            assert metric.name.removesuffix("_total").endswith("_seconds"), metric.name
        if metric.unit == "bytes":
            assert metric.name.removesuffix("_total").endswith("_bytes"), metric.name
        if metric.unit == "ratio":
            assert metric.name.endswith("_ratio"), metric.name


def test_a_complete_report_gets_nan_for_what_may_be_absent_and_zero_for_counters() -> None:
    complete = reconcile({**REQUIRED, "rollout/attempts": 32}, strict=True)
    assert list(complete) == [m.key for m in METRICS]
    assert complete["train/loss"] == 0.5
    assert complete["rollout/attempts"] == 32.0
    assert complete["engine/restarts"] == 0.0
    assert complete[MISMATCHES] == 0.0
    assert math.isnan(complete["teacher/null_kl"])


def test_an_unknown_key_names_the_nearest_declared_one() -> None:
    with pytest.raises(UndeclaredMetric, match=r"'train/los' .* did you mean 'train/loss'"):
        reconcile({**REQUIRED, "train/los": 1.0}, strict=True)


def test_a_missing_key_is_named() -> None:
    values = {key: value for key, value in REQUIRED.items() if key != "train/grad_norm"}
    with pytest.raises(UndeclaredMetric, match="'train/grad_norm' is declared but was not"):
        reconcile(values, strict=True)


def test_a_skipped_step_has_no_loss_and_a_taken_one_must() -> None:
    skipped = {k: v for k, v in REQUIRED.items() if BY_KEY[k].presence == "always"}
    assert math.isnan(reconcile({**skipped, "train/skipped_steps": 1.0}, strict=True)["train/loss"])
    with pytest.raises(UndeclaredMetric, match="'train/loss' is declared but was not reported"):
        reconcile({**skipped, "train/skipped_steps": 0.0}, strict=True)


def test_a_run_counts_mismatches_and_goes_on() -> None:
    values = {key: value for key, value in REQUIRED.items() if key != "train/grad_norm"}
    warnings: list[str] = []
    complete = reconcile({**values, "zzz/qqq": 1.0}, strict=False, warn=warnings.append)
    assert complete[MISMATCHES] == 2.0
    assert math.isnan(complete["train/grad_norm"])
    assert "zzz/qqq" not in complete
    assert len(warnings) == 2
    assert "observability/metrics.py" in warnings[0]


def test_tests_are_strict_and_runs_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UndeclaredMetric):
        reconcile({})
    monkeypatch.delenv("SDPO_STRICT_METRICS")
    assert reconcile({})[MISMATCHES] == len(REQUIRED)


def test_every_key_that_the_source_writes_is_declared() -> None:
    """Literals such as "train/loss" in the parts that report: declared, or a typing error."""
    groups = "|".join(sorted({metric.group for metric in METRICS}))
    undeclared = []
    for file in sorted((REPOSITORY / "sdpo_megatron").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if (
                re.fullmatch(rf"({groups})/[a-z0-9_]*[a-z0-9]", node.value)
                and node.value != "policy/v1"  # an API group of Kubernetes
                and node.value not in BY_KEY
            ):
                undeclared.append(f"{file.relative_to(REPOSITORY)}:{node.lineno}: {node.value}")
    assert undeclared == []
