"""Settings of FP8, drift and shared memory that contradict each other, over several groups."""

from __future__ import annotations

import pytest

from sdpo_megatron import config
from sdpo_megatron.errors import ConfigError

FALL_BACK = "drift.action=fall_back"
ENGINE_FP8 = "rollout.engine.precision=fp8"
URLS = "rollout.engine.urls=[http://engine-0:30000]"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["drift.fp8_limit=0.1"], "fp8_limit=0.1: does nothing without precision.fp8"),
        (
            [FALL_BACK],
            "has nothing to fall back from: neither precision.fp8 nor rollout.engine.pre",
        ),
        ([FALL_BACK, ENGINE_FP8, URLS], "are not ours to restart; use stop"),
        (
            [ENGINE_FP8, "rollout.engine.dtype=float32"],
            "precision=fp8: needs bf16 beside it: set rollout.engine.dtype=bfloat16",
        ),
        (
            ["rollout.engine.release_memory=true", "rollout.max_staleness=1"],
            "release_memory=true: takes the engines' memory while the trainer works, and with "
            "rollout.max_staleness=1 they generate meanwhile",
        ),
        (
            ["rollout.engine.release_memory=true", URLS],
            "release_memory=true: is for engines that we start",
        ),
    ],
)
def test_contradictions_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(["model.path=/m", *overrides])


@pytest.mark.parametrize(
    "overrides",
    [
        [FALL_BACK, ENGINE_FP8],
        [FALL_BACK, "precision=fp8", URLS],
        ["precision=fp8", "drift.fp8_limit=0.1", "drift.engine_limit=0.2"],
        ["drift.engine_limit=0.5", "rollout.max_staleness=2"],
    ],
)
def test_what_can_be_is_taken(overrides: list[str]) -> None:
    config.load(["model.path=/m", *overrides])
