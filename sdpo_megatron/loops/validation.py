"""The validation pass of a run: held-out questions, asked of the weights that the engines serve."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.loops.rollout_side import RolloutSide
from sdpo_megatron.loops.state import TrainState
from sdpo_megatron.nouns import Question
from sdpo_megatron.observability.run_folder import RunFolder
from sdpo_megatron.rollout.overlong import within_limits
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.validation import (
    is_due,
    validation_metrics,
    validation_sampling,
    validation_task,
)
from sdpo_megatron.tasks import load_task


class Validation:
    """The held-out questions of a run; none where it does not validate.

    Attributes:
        num_attempts: Of one pass.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder, prompts: PromptBuilder) -> None:
        """Read the questions. Prompts that are too long to train on are too long to validate on.

        Raises:
            TaskFileError: The file is missing or malformed.
            ConfigError: No prompt is short enough.
        """
        self._config, self._file = config.validation, folder.path / "validation.jsonl"
        self._sampling = validation_sampling(config.validation, config.rollout.sampling)
        self._questions: list[Question] = []
        if config.validation.every:
            task = load_task(validation_task(config.validation, config.task))
            limit = config.rollout.sampling.max_prompt_tokens
            self._questions = within_limits(task.questions, prompts, limit, None)
        self.num_attempts = len(self._questions) * self._sampling.num_attempts

    def is_due(self, step: int, *, last: bool) -> bool:
        """Whether to validate after `step` rollout batches (0: before training)."""
        return is_due(self._config, step, last=last)

    def resume_at(self, step: int) -> None:
        """Drop the passes after `step`, and all of them for 0: they are made anew."""
        if self._file.exists():
            lines = self._file.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            kept = [line for line in whole if step and json.loads(line)["step"] <= step]
            self._file.write_text("".join(kept))

    def run(
        self,
        rollouts: RolloutSide,
        state: TrainState,
        on_attempt: Callable[[], None],
    ) -> dict[str, float] | None:
        """Sample and judge; the metrics, which also become a line of validation.jsonl. None when
        the run was asked to stop meanwhile.

        Every pass has the same seeds, so that what differs between two is the policy.
        """
        started = time.monotonic()
        groups = rollouts.collect(0, self._questions, state.version, on_attempt, self._sampling)
        if groups is None:
            return None
        found = validation_metrics(groups, time.monotonic() - started)
        line = {"step": state.step, "policy_version": state.version.number, **found}
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return found
