"""Rank 0's duties: questions, engines and verifiers, teacher's prompts, and what a person sees."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from sdpo_megatron.actor.runtime import Runtime
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import CheckpointError, GroupFileError
from sdpo_megatron.loops.instruments import describe_run, show_attempt, show_volume
from sdpo_megatron.loops.plans import Plans
from sdpo_megatron.loops.questions import num_steps, questions_of_step
from sdpo_megatron.loops.rollout_side import RolloutSide
from sdpo_megatron.loops.state import TrainState, diagnostics_due
from sdpo_megatron.loops.stop import StopRequest
from sdpo_megatron.loops.validation import Validation
from sdpo_megatron.nouns import (
    Attempt,
    Group,
    GroupLease,
    GroupReceipt,
    PolicyVersion,
    Question,
    StepReport,
    TeacherContext,
    TrainSample,
    Verdict,
)
from sdpo_megatron.objectives import build_objective
from sdpo_megatron.objectives.health import CollapseRule, collapse_signs, prompt_sign
from sdpo_megatron.observability import processes
from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.display import Display
from sdpo_megatron.observability.example import choose_example
from sdpo_megatron.observability.exporter import Exporter, ExporterConfig
from sdpo_megatron.observability.metrics import reconcile
from sdpo_megatron.observability.phases import PhaseClock
from sdpo_megatron.observability.run_folder import RunFolder
from sdpo_megatron.observability.series import VERIFY_INFRASTRUCTURE_FAILURES
from sdpo_megatron.rollout.batch import BatchMaker
from sdpo_megatron.rollout.group_file import write_group
from sdpo_megatron.rollout.overlong import within_limits
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.store import RolloutStore
from sdpo_megatron.rollout.summary import rollout_metrics, teacher_metrics
from sdpo_megatron.rollout.teacher_prompts import TeacherPromptBuilder
from sdpo_megatron.rollout.tokenizer import load_tokenizer
from sdpo_megatron.tasks import load_task


class Coordinator:
    """Use as a context manager: engines, verifiers, display and exporter end with it."""

    def __init__(
        self, config: TrainConfig, folder: RunFolder, runtime: Runtime, stop: StopRequest
    ) -> None:
        self.config, self.folder, self.runtime, self.stop = config, folder, runtime, stop
        self.board = Board()
        self.clock = PhaseClock(self.board)
        describe_run(self.board, config, runtime)
        show_volume(self.board, folder.path)
        self.store = RolloutStore(folder.rollouts)
        self.plans = Plans(config, folder)
        self._stack = ExitStack()
        self._metrics: dict[str, float] = {}
        self._groups: list[Group] = []
        self._history: list[Mapping[str, float]] = []
        self._restarts = 0
        self._failed = 0.0
        self._step_started = time.monotonic()

    def __enter__(self) -> Coordinator:
        """Engines begin to start; `open` waits for them."""
        config = self.config
        task = load_task(config.task)
        prompts = PromptBuilder(
            load_tokenizer(config.model.path), thinking=config.rollout.sampling.thinking
        )
        teacher_prompts = TeacherPromptBuilder(prompts, config.rollout.teacher_prompt)
        objective = build_objective(config.objective)
        self.questions = within_limits(
            task.questions,
            prompts,
            config.rollout.sampling.max_prompt_tokens,
            teacher_prompts if objective.needs_teacher else None,
        )
        self._num_overlong = len(task.questions) - len(self.questions)
        self.steps = num_steps(config, len(self.questions))
        self.board.set("sdpo_steps_target", self.steps)
        self.display = self._stack.enter_context(Display(self.steps))
        listen = ExporterConfig(
            enabled=config.run.metrics_port > 0,
            address=config.run.metrics_address,
            port=config.run.metrics_port,
        )
        self._stack.enter_context(closing(Exporter(listen, self.display.warn, self.board)))
        self.validation = Validation(config, self.folder, prompts)
        self.batches = BatchMaker(teacher_prompts, objective)
        self.rollouts = self._stack.enter_context(
            RolloutSide(
                config,
                task,
                prompts,
                Path(config.model.path),
                self.folder.logs,
                self.display.message,
                self.board,
            )
        )
        self.stop.call_when_asked(self.rollouts.cancel)
        self.display.message(
            f"run folder {self.folder.path}; {len(self.questions)} questions of "
            f"{config.task.name}, {self.steps} steps"
        )
        if self._num_overlong:
            self.display.warn(
                f"{self._num_overlong} of {len(task.questions)} questions are left out: their "
                "prompts are longer than rollout.sampling.max_prompt_tokens="
                f"{config.rollout.sampling.max_prompt_tokens}, or than "
                "rollout.teacher_prompt.max_prompt_tokens in the teacher's template"
            )
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(*exc)  # type: ignore[arg-type]

    def open(self, state: TrainState) -> None:
        """Wait until engines and verifiers are up, or the run was asked to stop; it is about to go
        on from `state`.
        """
        self.board.set("sdpo_step", state.step)
        with self.display.phase("waiting for the engine"):
            self.rollouts.wait_ready()
        self.folder.resume_at(state.step + 1)
        self.validation.resume_at(state.step)
        self._history = [report.metrics for report in self.folder.reports()]
        self._step_started = time.monotonic()
        self.clock.enter("other")
        if state.step:
            self.display.message(f"resumed after step {state.step}")

    def sample(self, state: TrainState) -> list[Group] | None:
        """A judged group per question of this step; None when the run was asked to stop meanwhile.

        A step that was sampled from the same weights before the run was killed is replayed from its
        record.
        """
        started = time.monotonic()
        groups = self._recorded(state)
        if groups is None:
            with self.clock.phase("rollout"):
                groups = self._sample_afresh(state)
            if groups is None:
                return None
            self.folder.may_write()
            self.store.write(state.step + 1, state.version, groups)
        seconds = time.monotonic() - started
        self._groups = groups
        judging = sum(verdict.seconds for group in groups for verdict in group.verdicts)
        self._metrics = rollout_metrics(groups, seconds) | {
            "time/rollout_s": seconds,
            "time/verify_s": judging,
            "rollout/overlong_questions": float(self._num_overlong),
        }
        return groups

    def teach(self, state: TrainState, groups: Sequence[Group]) -> list[GroupReceipt]:
        """Teacher prompts and weights for every attempt, in a file for each group."""
        due = diagnostics_due(self.config, state)
        receipts: list[GroupReceipt] = []
        contexts: list[TeacherContext | None] = []
        first = state.step * self.config.batch.questions
        self.folder.may_write()
        with self.clock.phase("prompts"):
            for position, group in enumerate(groups, start=first):
                samples, shown = self.batches.make_group(group, null_prompts=due)
                contexts += shown
                receipts.append(self._write_group(GroupLease(position), group, samples))
        self._metrics |= teacher_metrics(contexts)
        if due:
            self._metrics |= self._ask_teacher(state, groups)
        return receipts

    def _write_group(
        self, lease: GroupLease, group: Group, samples: Sequence[TrainSample]
    ) -> GroupReceipt:
        # What a killed run left was made of the same record, but perhaps by other settings.
        (self.folder.groups / f"{lease.name}.bin").unlink(missing_ok=True)
        receipt = write_group(
            self.folder.groups,
            lease,
            group.question.id,
            samples,
            attempts=len(group.attempts),
            dropped=group.dropped,
        )
        if receipt is None:
            raise GroupFileError(
                f"{self.folder.groups}: the group of lease {lease.name} was written by something "
                "else meanwhile; look who else writes this run folder"
            )
        return receipt

    def next_plan(self, state: TrainState) -> str | None:
        """The plan of the next step, by its name in the folder of rollouts; None when the run was
        asked to stop meanwhile.
        """
        groups = self.sample(state)
        if groups is None:
            return None
        receipts = self.teach(state, groups)
        self.plans.forget()
        return self.plans.write(state.step + 1, receipts)

    def validate(self, state: TrainState) -> None:
        """Attempts at held-out questions by the weights of `state`, where they are due now; their
        metrics go with the step's report and, with those from before the first step, to
        validation.jsonl.
        """
        if not self.validation.is_due(state.step, last=state.step >= self.steps):
            return
        with (
            self.clock.phase("validation"),
            self.display.phase("validating", total=self.validation.num_attempts) as phase,
        ):
            found = self.validation.run(self.rollouts, state, lambda *_: phase.advance())
        if found is not None:
            self._metrics |= found
            self.display.message(
                f"validation after step {state.step}: {found['validation/success_rate']:.3f} of "
                f"{found['validation/attempts']:.0f} attempts solve their question, "
                f"{found['validation/best_of_n']:.3f} of the questions are solved by one of theirs"
            )

    def swap(self, folder: Path, version: PolicyVersion) -> None:
        """Engines take the weights in `folder` and prove it by their checksum, else SwapError; the
        swap goes on record in swaps.jsonl, and the weights of older versions are deleted.
        """
        started = time.monotonic()
        with self.display.phase(f"swapping to version {version.number}"):
            self.rollouts.swap(folder, version)
        seconds = round(time.monotonic() - started, 3)
        line = {"version": version.number, "checksum": version.checksum, "seconds": seconds}
        self.folder.may_write()
        with (self.folder.path / "swaps.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        for old in folder.parent.iterdir():  # older versions, and what a kill left half written
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def report(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """The finished step: to the table, the file and Prometheus."""
        memory = processes.measure()
        seconds = time.monotonic() - self._step_started
        restarts = self.rollouts.engine_restarts
        found = (
            self._metrics
            | metrics
            | {
                "time/step_s": seconds,
                "train/tokens_per_s": metrics["train/tokens"] / seconds,
                "policy/version": float(state.version.number),
                "engine/restarts": float(restarts - self._restarts),
                "verify/infrastructure_failures": self._newly_failed(),
                "memory/rank0_bytes": float(self.runtime.memory_bytes()),
                "memory/all_bytes": float(memory.all_bytes),
            }
        )
        self._restarts = restarts
        self._history.append(found)
        for sign in collapse_signs(self._history, CollapseRule()):
            self.display.warn(sign.text)
            found[f"collapse/{sign.name}"] = 1.0
        report = StepReport(
            step=state.step,
            policy_version=state.version.number,
            metrics=reconcile(found, warn=self.display.warn),
        )
        if metrics["train/skipped_steps"]:
            self.display.warn(
                f"step {state.step}: no attempt had a teacher prompt or an advantage, so no "
                "optimiser step was taken"
            )
        self._step_started = time.monotonic()
        self.folder.append(report)
        self.board.publish(report)
        self.display.step(report, choose_example(self._groups, state.step))

    def _newly_failed(self) -> float:
        """Verifications that infrastructure failed since the last step."""
        name, where = VERIFY_INFRASTRUCTURE_FAILURES.name, self.config.judge.where
        before, self._failed = self._failed, self.board.value(name, where=where)
        return self._failed - before

    def finish(self, state: TrainState) -> None:
        """Say where everything is."""
        self.clock.enter("idle")
        how = "finished" if state.step >= self.steps else "stopped"
        self.display.message(
            f"{how} after step {state.step}, policy version {state.version.number}; everything is "
            f"in {self.folder.path}"
        )

    def _ask_teacher(self, state: TrainState, groups: Sequence[Group]) -> dict[str, float]:
        """Success rate of answers sampled from teacher prompts: does what the teacher is shown help
        it at all?
        """
        questions = self.batches.teacher_questions(
            groups, limit=self.config.run.diagnostics_samples
        )
        with (
            self.clock.phase("diagnostics"),
            self.display.phase("asking the teacher", total=len(questions)) as phase,
        ):
            answers = self.rollouts.collect(
                state.step,
                questions,
                state.version,
                lambda *_: phase.advance(),
                replace(self.config.rollout.sampling, num_attempts=1),
            )
        verdicts = [verdict for group in answers or () for verdict in group.verdicts]
        if not verdicts:
            return {}
        rate = sum(verdict.success for verdict in verdicts) / len(verdicts)
        student = self._metrics["rollout/success_rate"]
        found = {"teacher/prompt_success": rate}
        history = [*self._history, {"rollout/success_rate": student, **found}]
        if sign := prompt_sign(history, len(verdicts)):
            self.display.warn(sign.text)
            found[f"collapse/{sign.name}"] = 1.0
        return found

    def _recorded(self, state: TrainState) -> list[Group] | None:
        """Attempts that an earlier life of this run sampled for this step from the same weights."""
        if state.step + 1 not in self.store.steps():
            return None
        try:
            record = self.store.read(state.step + 1)
        except CheckpointError as error:
            self.display.warn(f"{error}; sampling the step again")
            return None
        mine, theirs = state.version, record.version
        if (mine.number, mine.checksum) != (theirs.number, theirs.checksum):
            return None
        self.display.message(
            f"step {state.step + 1}: replaying the attempts recorded before the run was interrupted"
        )
        return list(record.groups)

    def _sample_afresh(self, state: TrainState) -> list[Group] | None:
        chosen = questions_of_step(
            self.questions,
            state.step,
            per_step=self.config.batch.questions,
            seed=self.config.run.seed,
        )
        total = len(chosen) * self.config.rollout.sampling.num_attempts
        with self.display.phase("sampling", total=total) as phase:
            left = total
            self.board.set("sdpo_attempts_in_flight", left)

            def on_attempt(_question: Question, attempt: Attempt, verdict: Verdict) -> None:
                nonlocal left
                left -= 1
                phase.advance()
                self.board.set("sdpo_attempts_in_flight", left)
                show_attempt(self.board, attempt, verdict)

            return self.rollouts.collect(
                state.step, chosen, state.version, on_attempt, self.config.rollout.sampling
            )
