"""The numbers of a comparison as a page of Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sdpo_megatron.comparing.comparison import Comparison, Step
from sdpo_megatron.comparing.estimates import (
    Estimate,
    estimate,
    generations,
    generations_to,
    smoothed,
)
from sdpo_megatron.comparing.variants import Variant

SUCCESS = "rollout/success_rate"


def page(comparison: Comparison, baseline: str, window: int) -> str:
    """Tables of the runs that are done.

    Args:
        baseline: The variant whose final level the others are asked to reach.
        window: Steps that a level is averaged over.
    """
    found = {variant: _done(comparison, variant) for variant in comparison.variants}
    lines = [
        "# Comparison",
        "",
        f"`sdpo compare {' '.join(comparison.overrides)}`, seeds "
        f"{', '.join(map(str, comparison.seeds))}. Success is the mean over the last {window} "
        "steps; ± is the half width of Student's 95 % interval over seeds.",
        "",
        *_levels(found, baseline, window),
        "",
        *_curves(found),
    ]
    return "\n".join(lines) + "\n"


def _done(comparison: Comparison, variant: Variant) -> list[list[Step]]:
    runs = [run for run in comparison.runs if run.variant == variant]
    return [steps for run in runs if (steps := comparison.results(run)) is not None]


def _levels(found: dict[Variant, list[list[Step]]], baseline: str, window: int) -> list[str]:
    level = next(
        (_final(runs, window).mean for v, runs in found.items() if v.name == baseline), math.nan
    )
    lines = [
        "| variant | runs | success at first | at the end | held out, at the end | generations to "
        f"{baseline}'s end ({_number(level)}) | of |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for variant, runs in found.items():
        first = estimate([steps[0][SUCCESS] for steps in runs if steps])
        reached = [generations_to(steps, level, window) for steps in runs if steps]
        total = max((generations(steps)[-1] for steps in runs if steps), default=0.0)
        held_out = estimate(
            [v for s in runs if s and not math.isnan(v := _last(s, "validation/success_rate"))]
        )
        lines.append(
            f"| {variant.name} | {len(runs)} | {first} | {_final(runs, window)} | {held_out} | "
            f"{_reached(reached)} | {total:.0f} |"
        )
    return lines


def _final(runs: Sequence[Sequence[Step]], window: int) -> Estimate:
    return estimate([smoothed(steps, SUCCESS, window)[-1] for steps in runs if steps])


def _last(steps: Sequence[Step], key: str) -> float:
    return smoothed(steps, key, 1)[-1]


def _reached(values: Sequence[float]) -> str:
    """Each seed's number: a mean would hide those that never got there."""
    if not values or any(math.isnan(value) for value in values):
        return "-"
    return ", ".join("never" if math.isinf(value) else f"{value:.0f}" for value in values)


def _curves(found: dict[Variant, list[list[Step]]]) -> list[str]:
    lines = ["Success by step, mean over seeds:", "", "| variant | |", "| --- | --- |"]
    for variant, runs in found.items():
        length = max((len(steps) for steps in runs), default=0)
        means = [
            estimate([steps[n][SUCCESS] for steps in runs if len(steps) > n]).mean
            for n in range(length)
        ]
        lines.append(f"| {variant.name} | {' '.join(f'{mean:.2f}' for mean in means)} |")
    return lines


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
