"""What is known is shown, what is not is absent, and a second belongs to one phase."""

from __future__ import annotations

import math

import pytest

from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.board import Board, UndeclaredSeries
from sdpo_megatron.observability.metrics import METRICS, reconcile
from sdpo_megatron.observability.phases import PhaseClock
from sdpo_megatron.observability.series import PHASES, SERIES


def shown(board: Board) -> dict[str, float]:
    """Every sample as ``name{label=value}``."""
    found = {}
    for family in board.collect():
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def report(**values: float) -> StepReport:
    keys = {key.replace("__", "/"): value for key, value in values.items()}
    return StepReport(step=3, policy_version=3, metrics=reconcile(keys, strict=False))


def test_before_anything_is_known_there_are_zero_counters_and_no_gauge() -> None:
    found = shown(Board())
    assert found["sdpo_rollout_attempts_total"] == 0.0
    assert found["sdpo_attempts_total{finish=stop,solved=true}"] == 0.0
    assert found["sdpo_step_seconds_count"] == 0.0
    gauges = {series.name for series in SERIES if series.kind == "gauge"}
    assert [key for key in found if key.partition("{")[0] in gauges] == []
    assert not any("_created" in key for key in found)


def test_what_a_step_did_not_measure_goes() -> None:
    board = Board()
    board.publish(report(teacher__null_kl=0.5, teacher__gain_failed=-0.1))
    assert shown(board)["sdpo_teacher_null_kl"] == 0.5
    assert shown(board)["sdpo_teacher_gain{attempts=failed}"] == -0.1
    board.publish(report())
    assert "sdpo_teacher_null_kl" not in shown(board)


def test_nan_leaves_counters_and_histograms_as_they_were() -> None:
    board = Board()
    board.publish(report(rollout__attempts=8, time__step_s=2.0))
    board.publish(report(rollout__attempts=math.nan, time__step_s=math.nan))
    found = shown(board)
    assert found["sdpo_rollout_attempts_total"] == 8.0
    assert found["sdpo_step_seconds_count"] == 1.0


def test_a_histogram_counts_up_to_and_with_its_bounds() -> None:
    board = Board()
    for value in (0.0, 0.1, 0.11, 1.0, 7.0):
        board.observe("sdpo_attempt_reward", value)
    found = shown(board)
    assert found["sdpo_attempt_reward_bucket{le=0.0}"] == 1.0
    assert found["sdpo_attempt_reward_bucket{le=0.1}"] == 2.0
    assert found["sdpo_attempt_reward_bucket{le=0.2}"] == 3.0
    assert found["sdpo_attempt_reward_bucket{le=1.0}"] == 4.0
    assert found["sdpo_attempt_reward_bucket{le=+Inf}"] == found["sdpo_attempt_reward_count"] == 5.0
    assert found["sdpo_attempt_reward_sum"] == pytest.approx(8.21)


def test_names_labels_and_directions_are_checked() -> None:
    board = Board()
    with pytest.raises(UndeclaredSeries, match="sdpo_nothing is not a declared gauge"):
        board.set("sdpo_nothing", 1.0)
    with pytest.raises(UndeclaredSeries, match="sdpo_step is not a declared counter"):
        board.add("sdpo_step")
    with pytest.raises(UndeclaredSeries, match=r"labels .'engine'., got .'motor'."):
        board.set("sdpo_engine_up", 1.0, motor="a")
    with pytest.raises(ValueError, match="cannot fall"):
        board.add("sdpo_rollout_tokens_total", -1.0)


def test_a_report_that_was_not_reconciled_is_refused() -> None:
    with pytest.raises(KeyError):
        Board().publish(StepReport(step=1, policy_version=1, metrics={"train/loss": 1.0}))


def test_metrics_that_share_a_name_differ_in_labels_alone() -> None:
    for series in SERIES:
        members = [metric for metric in METRICS if metric.name == series.name]
        assert len({metric.labels for metric in members}) == len(members), series.name
        assert len({(metric.kind, metric.unit) for metric in members}) <= 1, series.name


def test_phases_add_up_to_the_time_that_passed() -> None:
    now = 100.0
    board = Board()
    clock = PhaseClock(board, now=lambda: now)
    now += 5.0
    clock.enter("other")
    now += 1.0
    with clock.phase("publish"):
        now += 2.0
        with clock.phase("checkpoint"):
            now += 4.0
        now += 8.0
    now += 16.0
    found = shown(board)
    seconds = {p: found[f"sdpo_phase_seconds_total{{phase={p}}}"] for p in PHASES}
    assert {phase: value for phase, value in seconds.items() if value} == {
        "start": 5.0, "other": 17.0, "publish": 10.0, "checkpoint": 4.0,
    }  # fmt: skip
    assert sum(seconds.values()) == 36.0
    current = [key for key in found if key.startswith("sdpo_phase_info")]
    assert current == ["sdpo_phase_info{phase=other}"]


def test_the_current_phase_counts_while_it_lasts() -> None:
    now = 0.0
    board = Board()
    PhaseClock(board, now=lambda: now)
    now = 3.0
    assert shown(board)["sdpo_phase_seconds_total{phase=start}"] == 3.0
    now = 7.0
    assert shown(board)["sdpo_phase_seconds_total{phase=start}"] == 7.0


def test_an_unknown_phase_is_refused() -> None:
    with pytest.raises(ValueError, match="'rolout' is not a phase"):
        PhaseClock(Board()).enter("rolout")


def test_counters_of_a_label_value_that_is_known_only_now_begin_at_zero() -> None:
    """Else a first failure would be no increase, and raise no alert."""
    board = Board()
    board.add("sdpo_engine_exits_total", engine="a", reason="hung")
    for _ in range(2):
        board.begin("sdpo_engine_exits_total", engine="a")
        board.begin("sdpo_swap_failures_total", engine="a")
    found = shown(board)
    exits = {key: value for key, value in found.items() if "_engine_exits_" in key}
    assert sorted(exits.values()) == [0.0, 0.0, 0.0, 1.0]
    assert found["sdpo_swap_failures_total{engine=a}"] == 0.0
    with pytest.raises(UndeclaredSeries, match="has the labels"):
        board.begin("sdpo_swap_failures_total", verifier="a")
    with pytest.raises(UndeclaredSeries, match="is not a declared counter"):
        board.begin("sdpo_step")
