"""The folder of a comparison.

comparison.json        what is compared: overrides of all runs, variants, seeds
results/NAME-SEED.json a finished run's numbers, one object a step, and where it was made
runs/NAME-SEED/        the run folders
comparison.md          the tables, written anew after each run
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpo_megatron.comparing.variants import Variant
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.files import write_whole

Step = Mapping[str, float]
KEPT = (
    "rollout/success_rate", "rollout/reward_mean", "rollout/attempts", "student/entropy",
    "rollout/response_tokens_mean", "rollout/format_ok_fraction", "teacher/prompt_success",
    "train/loss", "train/grad_norm", "train/skipped_steps", "time/step_s",
    "validation/success_rate", "validation/best_of_n", "teacher/null_kl",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run of a comparison."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}-{self.seed}"


class Comparison:
    """Opens a folder, or makes it.

    Raises:
        ConfigError: The folder holds another comparison.
    """

    def __init__(
        self,
        folder: Path,
        overrides: Sequence[str],
        variants: Sequence[Variant],
        seeds: Sequence[int],
    ) -> None:
        self.folder, self.overrides = folder, tuple(overrides)
        self.variants, self.seeds = tuple(variants), tuple(seeds)
        (folder / "results").mkdir(parents=True, exist_ok=True)
        self._claim()

    @property
    def runs(self) -> tuple[Run, ...]:
        """Seed by seed, so that a comparison which is stopped has all variants of some seeds."""
        return tuple(Run(variant, seed) for seed in self.seeds for variant in self.variants)

    def run_folder(self, run: Run) -> Path:
        return self.folder / "runs" / run.name

    def arguments(self, run: Run) -> list[str]:
        """Of `sdpo train`, for a run that has not begun."""
        return [
            *self.overrides,
            *run.variant.overrides,
            f"run.name={run.name}",
            f"run.seed={run.seed}",
            f"run.folder={self.run_folder(run)}",
        ]

    def results(self, run: Run) -> list[Step] | None:
        """The steps of a finished run; None while it is not."""
        file = self._results_file(run)
        if not file.is_file():
            return None
        steps: list[Step] = json.loads(file.read_text())["steps"]
        return steps

    def keep(self, run: Run, steps: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
        """Record a finished run's numbers, without those that tell nothing of learning."""
        kept = [
            {k: step[k] for k in ("step", *KEPT) if k in step and step[k] == step[k]}  # not NaN
            for step in steps
        ]
        record = {"variant": run.variant.name, "seed": run.seed, **facts, "steps": kept}
        write_whole(self._results_file(run), json.dumps(record, indent=1) + "\n")

    def _results_file(self, run: Run) -> Path:
        return self.folder / "results" / f"{run.name}.json"

    def _claim(self) -> None:
        """More seeds or variants may be asked for later; what all runs share may not change."""
        file = self.folder / "comparison.json"
        mine: dict[str, Any] = {
            "overrides": list(self.overrides),
            "variants": {v.name: list(v.overrides) for v in self.variants},
            "seeds": list(self.seeds),
        }
        if file.is_file():
            theirs = json.loads(file.read_text())
            changed = [
                name
                for name, overrides in theirs["variants"].items()
                if mine["variants"].get(name, overrides) != overrides
            ]
            if theirs["overrides"] != mine["overrides"] or changed:
                raise ConfigError(
                    f"{self.folder} holds a comparison of other runs "
                    f"({' '.join(theirs['overrides'])}): choose another --folder, or give the "
                    "same overrides to go on with it"
                )
            mine["variants"] = theirs["variants"] | mine["variants"]
            mine["seeds"] = sorted({*theirs["seeds"], *mine["seeds"]})
        write_whole(file, json.dumps(mine, indent=1) + "\n")
