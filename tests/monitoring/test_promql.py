"""A name or label that nothing exports is an error where a query is written."""

from __future__ import annotations

import pytest

from sdpo_megatron.monitoring.panel import Curve, step
from sdpo_megatron.monitoring.promql import bucket, mean, of_step, quantile, select
from sdpo_megatron.observability import series


def test_selectors() -> None:
    assert select(series.STEP) == "sdpo_step"
    assert select(series.STEP, 'run="a"') == 'sdpo_step{run="a"}'
    assert select(series.ENGINE_EXITS, 'run="a"', engine="e", reason="hung") == (
        'sdpo_engine_exits_total{run="a",engine="e",reason="hung"}'
    )
    assert bucket(series.ATTEMPT_REWARD) == "sdpo_attempt_reward_bucket"
    assert of_step("teacher/gain_failed") == 'sdpo_teacher_gain{attempts="failed"}'
    assert of_step("time/step_s", 'run="a"') == 'sdpo_step_seconds_sum{run="a"}'


def test_of_histograms() -> None:
    assert quantile(0.5, series.SWAP_SECONDS, "5m", by="stage") == (
        "histogram_quantile(0.5, sum by (le, stage) (rate(sdpo_swap_seconds_bucket[5m])))"
    )
    assert mean(series.SWAP_SECONDS, "5m") == (
        "sum (rate(sdpo_swap_seconds_sum[5m])) / sum (rate(sdpo_swap_seconds_count[5m]))"
    )


@pytest.mark.parametrize("labels", [{"motor": "a"}, {"reason": "bored"}])
def test_a_label_or_a_value_that_nothing_exports(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="sdpo_engine_exits_total has no"):
        select(series.ENGINE_EXITS, **labels)


def test_histograms_are_asked_by_their_parts_and_others_are_not() -> None:
    with pytest.raises(ValueError, match="is a histogram"):
        select(series.SWAP_SECONDS)
    with pytest.raises(ValueError, match="is a gauge"):
        bucket(series.STEP)


def test_a_step_is_asked_by_a_declared_key_that_is_exported() -> None:
    with pytest.raises(KeyError):
        step("train/los")
    with pytest.raises(ValueError, match="is not exported"):
        of_step("train/tokens_per_s")
    with pytest.raises(ValueError, match="no metric of a step"):
        Curve("up", "", "train/los")
