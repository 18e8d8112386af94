"""Learning rates by hand: the first step, the last of the warm-up, the one after, the end."""

from __future__ import annotations

from typing import Any

import pytest

from sdpo_megatron.actor.config import OptimizerConfig
from sdpo_megatron.actor.optimizer import learning_rate

# Steps 1, 2, 3, ...; the peak is 8, warm-up 4 steps where there is one.
SCHEDULES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "constant": ({}, [8, 8, 8]),
    "constant after a warm-up": ({"warmup_steps": 4}, [2, 4, 6, 8, 8, 8]),
    "a warm-up of one step": ({"warmup_steps": 1}, [8, 8]),
    "linear": ({"decay": "linear", "decay_steps": 4}, [6, 4, 2, 0, 0, 0]),
    "linear after a warm-up": (
        {"decay": "linear", "warmup_steps": 4, "decay_steps": 8},
        [2, 4, 6, 8, 6, 4, 2, 0, 0],
    ),
    "linear to a floor": (
        {"decay": "linear", "warmup_steps": 2, "decay_steps": 4, "min_lr": 2.0},
        [4, 8, 5, 2, 2],
    ),
    # 8 (1 + cos(pi k / 3)) / 2 for k = 1, 2, 3
    "cosine": ({"decay": "cosine", "decay_steps": 3}, [6, 2, 0, 0]),
    "cosine after a warm-up": (
        {"decay": "cosine", "warmup_steps": 4, "decay_steps": 7},
        [2, 4, 6, 8, 6, 2, 0, 0],
    ),
    "cosine to a floor": (
        {"decay": "cosine", "warmup_steps": 2, "decay_steps": 4, "min_lr": 2.0},
        [4, 8, 5, 2, 2],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_of_every_step(name: str) -> None:
    config, expected = SCHEDULES[name]
    schedule = OptimizerConfig(**{"lr": 8.0, **config})
    got = [learning_rate(schedule, step) for step in range(1, len(expected) + 1)]
    assert got == pytest.approx(expected, abs=1e-12)
