"""Rank 0's duties: questions, engines and rollout workers, the ledger, and what a person sees."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdpo_megatron.actor.checkpoint import whole_checkpoints
from sdpo_megatron.actor.runtime import Runtime
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import CheckpointError
from sdpo_megatron.loops.instruments import describe_run, show_attempt, show_volume
from sdpo_megatron.loops.plans.plans import Plans
from sdpo_megatron.loops.questions import num_searches, num_steps, question_at
from sdpo_megatron.loops.rollout_side import RolloutSide
from sdpo_megatron.loops.searching import Searching, words
from sdpo_megatron.loops.state import TrainState, diagnostics_due
from sdpo_megatron.loops.stop import StopRequest
from sdpo_megatron.loops.validation import Validation
from sdpo_megatron.loops.workers.instruments import GroupInstruments
from sdpo_megatron.nouns import (
    Group,
    GroupReceipt,
    Message,
    PolicyVersion,
    ScoredAttempt,
    StepReport,
)
from sdpo_megatron.objectives import build_objective
from sdpo_megatron.objectives.health import CollapseRule, collapse_signs, prompt_sign
from sdpo_megatron.observability import processes
from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.display import Display, Phase
from sdpo_megatron.observability.example import Example, choose_example
from sdpo_megatron.observability.exporter import Exporter, ExporterConfig
from sdpo_megatron.observability.metrics import reconcile
from sdpo_megatron.observability.phases import PhaseClock
from sdpo_megatron.observability.run_folder import RunFolder
from sdpo_megatron.observability.series import VERIFY_INFRASTRUCTURE_FAILURES
from sdpo_megatron.report.writer import NAME, ReportWriter
from sdpo_megatron.rollout.batch import BatchMaker
from sdpo_megatron.rollout.capacity import num_engines, requests_in_flight
from sdpo_megatron.rollout.desk import Desk
from sdpo_megatron.rollout.ledger.ledger import Ledger
from sdpo_megatron.rollout.ledger.lines import Place
from sdpo_megatron.rollout.making import SUMS
from sdpo_megatron.rollout.overlong import within_limits
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.store import RolloutStore
from sdpo_megatron.rollout.summary import rollout_metrics, teacher_metrics
from sdpo_megatron.rollout.teacher_prompts import TeacherPromptBuilder
from sdpo_megatron.rollout.token_scores import TokenScoreStore
from sdpo_megatron.rollout.tokenizer import load_tokenizer
from sdpo_megatron.tasks import load_task
from serving.config import EngineConfig
from serving.swapping.swap_target import StageReport, SwapTarget

_SHOW_EVERY_S = 0.05  # counting a large batch's attempts at each of them would take longer


class Coordinator:
    """Use as a context manager: engines, workers, display and exporter end with it."""

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
        self.scores = TokenScoreStore(folder.token_scores)
        self._stack = ExitStack()
        self._metrics: dict[str, float] = {}
        self._groups: list[GroupReceipt] = []
        self._sampling: Phase | None = None
        self._shown_at = self._batch_cut = 0.0
        self._history: list[Mapping[str, float]] = []
        self._restarts = 0
        self._failed = 0.0
        self._step_started = self._swap_started = time.monotonic()

    def __enter__(self) -> Coordinator:
        """Engines begin to start; `open` waits for them."""
        config = self.config
        task = load_task(config.task)
        prompts = PromptBuilder(
            load_tokenizer(config.model.path), thinking=config.rollout.sampling.thinking
        )
        self._tokenizer = prompts.tokenizer
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
        self._page = self._stack.enter_context(
            ReportWriter(self.folder.path, self.display.warn, self.folder.may_write)
        )
        self.validation = Validation(config, self.folder, prompts)
        self.searching = (
            Searching(config, self.folder, self.questions, prompts) if config.discovery else None
        )
        self._teacher_batches = BatchMaker(teacher_prompts, objective)
        self.rollouts = self._stack.enter_context(
            RolloutSide(
                config,
                self.folder.path,
                Path(config.model.path),
                self.display.message,
                self.board,
            )
        )
        self._instruments = GroupInstruments(self.board, self.rollouts.crew)
        self.stop.call_when_asked(self.rollouts.cancel)
        self.display.message(
            f"run folder {self.folder.path}; {len(self.questions)} questions of "
            f"{config.task.name}, {self.steps} steps"
        )
        sampling, engine = config.rollout.sampling, config.rollout.engine
        in_flight = requests_in_flight(sampling, engine, num_engines(engine))
        self.display.message(
            f"at most {in_flight} requests in flight (rollout.sampling.concurrency), "
            f"{config.judge.num_workers} verifications at once (judge.workers)"
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

    def open(self, state: TrainState, place: Place) -> None:
        """Wait until engines and a worker are up, or the run was asked to stop; it is about to go
        on from `state`, whose checkpoint knew the ledger up to `place`.

        Raises:
            LedgerError: The ledger is not that of the checkpoint.
        """
        config = self.config
        self.board.set("sdpo_step", state.step)
        ledger = Ledger(self.folder.rollouts, self.folder.may_write)
        self._instruments.show(ledger.book)
        self._desk = Desk(
            ledger,
            self.folder.groups,
            batch=config.batch.questions,
            eta=config.rollout.max_staleness,
            steps=self.steps,
            lease_s=config.rollout.workers.lease_timeout_s,
            max_replaced=config.rollout.max_replaced,
        )
        self._desk.resume(state.step, state.version.number, place)
        with self.display.phase("waiting for the engine"):
            self.rollouts.wait_ready()
        self.folder.resume_at(state.step + 1)
        self.validation.resume_at(state.step)
        self._history = [report.metrics for report in self.folder.reports()]
        self._step_started = self._batch_cut = time.monotonic()
        self.clock.enter("other")
        if state.step:
            self.display.message(f"resumed after step {state.step}")
        if self.searching is not None:
            done = range(state.search_began + 1, state.step + 1)
            self.searching.begin(
                state.search, [group for step in done for group in self.store.read(step).groups]
            )
        self.rollouts.begin(self._desk, self._question_at, self._on_attempt, self._turns)

    def sample(self, state: TrainState) -> list[GroupReceipt] | None:
        """The groups that the next step trains on; None when the run was asked to stop meanwhile.

        Workers make them: now, or while the last steps were trained on (`rollout.max_staleness`).
        """
        started = time.monotonic()
        total = self.config.batch.questions * self.config.rollout.sampling.num_attempts
        with (
            self.clock.phase("rollout"),
            self.display.phase("sampling", total=total) as self._sampling,
        ):
            self._show_progress()
            groups = self.rollouts.next_batch(state.step + 1, state.version)
            if groups is not None:
                self._sampling.done = total
            self._sampling = None
        if groups is None:
            return None
        names = [group.lease.name for group in groups]
        self.folder.may_write()
        self.store.gather(state.step + 1, state.version, names)
        seconds = time.monotonic() - started
        self._groups = groups
        sums = [group.notes[SUMS] for group in groups]
        cut, self._batch_cut = self._batch_cut, time.monotonic()
        ahead = self.config.rollout.max_staleness > 0  # it is sampled all the time
        self._metrics = (
            rollout_metrics(sums, self._batch_cut - cut if ahead else seconds)
            | teacher_metrics(sums)
            | self._instruments.of_batch(groups, state.version.number)
            | {
                "time/rollout_s": seconds,
                "time/verify_s": sum(one["judge_s"] for one in sums),
                "rollout/overlong_questions": float(self._num_overlong),
            }
        )
        if diagnostics_due(self.config, state):
            self._metrics |= self._ask_teacher(state, groups)
        return groups

    def next_plan(self, state: TrainState) -> str | None:
        """The plan of the next step, by its name in the folder of rollouts; None when the run was
        asked to stop meanwhile.
        """
        groups = self.sample(state)
        if groups is None:
            return None
        self.plans.forget()
        return self.plans.write(state.step + 1, groups)

    def published(self, state: TrainState) -> None:
        """Engines serve the weights of `state`: generation may go on ahead."""
        self.rollouts.published(state.step)

    def next_batch(self, state: TrainState) -> str | None:
        """As `next_plan`, for a batch that nobody trains on: its name."""
        return None if self.sample(state) is None else f"step-{state.step + 1:06d}"

    @property
    def place(self) -> Place:
        """How far the ledger has been written: what a checkpoint must know of it."""
        return self.rollouts.at_desk(lambda: self._desk.ledger.place)

    def saved(self) -> None:
        """Groups that no checkpoint can ask for any more are let go of."""
        found = [step for step, _ in whole_checkpoints(self.folder.checkpoints)]
        if found and found[-1] > self._desk.ledger.book.saved:
            self.folder.may_write()
            self.rollouts.at_desk(lambda: self._desk.saved(found[-1], found[0]))

    def search_is_over(self, state: TrainState) -> bool:
        """Whether the batch that was sampled last ends the search that is on (`sdpo discover`); it
        then goes on record, and the next one is on.
        """
        assert self.searching is not None
        found = self.searching.note(
            state, [self.store.read_group(group.lease.name) for group in self._groups]
        )
        if found is None:
            return False
        of = num_searches(self.config, len(self.questions))
        self.display.message(words(found, state.search + 1, of))
        self.searching.begin(state.search + 1)
        return True

    def _turns(self) -> tuple[Message, ...]:
        return self.searching.turns() if self.searching is not None else ()

    def _question_at(self, position: int) -> str:
        if self.searching is not None:
            return self.searching.question.id
        return question_at(self.questions, position, seed=self.config.run.seed).id

    def _on_attempt(self, facts: Mapping[str, Any]) -> None:
        """One was judged; called from the rollout side's thread."""
        show_attempt(self.board, **facts)
        self._show_progress()

    def _show_progress(self) -> None:
        phase, now = self._sampling, time.monotonic()
        if phase is not None and phase.total is not None and now - self._shown_at > _SHOW_EVERY_S:
            self._shown_at = now
            phase.done = min(phase.total, self.rollouts.crew.attempts_done)

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
            found = self.validation.run(self.rollouts, state, phase.advance)
        if found is not None:
            self._metrics |= found
            self.display.message(
                f"validation after step {state.step}: {found['validation/success_rate']:.3f} of "
                f"{found['validation/attempts']:.0f} attempts solve their question, "
                f"{found['validation/best_of_n']:.3f} of the questions are solved by one of theirs"
            )

    @property
    def transport(self) -> str:
        """How weights travel to the engines of this run: distributed, tensor or disk."""
        return self.rollouts.transport

    def begin_swap(self, number: int, *, stream: bool) -> SwapTarget:
        """Engines pause for version `number`: see `EnginePool.begin`."""
        self._swap_started = time.monotonic()
        with self.display.phase(f"swapping to version {number}"):
            return self.rollouts.begin_swap(number, stream=stream)

    def finish_swap(
        self, version: PolicyVersion, folder: Path, reports: Sequence[StageReport], transport: str
    ) -> None:
        """A quorum of engines serves `version`, proven by checksum, else SwapError; the swap goes
        on record in swaps.jsonl.
        """
        failures = {url: why for report in reports for url, why in report.failures.items()}
        for report in reports:
            self.board.add("sdpo_swap_bytes_total", report.num_bytes, transport=transport)
            for stage, seconds in report.seconds.items():
                self.board.observe("sdpo_swap_seconds", seconds, stage=stage)
        with self.display.phase(f"swapping to version {version.number}"):
            self.rollouts.finish_swap(
                version, folder, stream=transport != "disk", failures=failures
            )
        seconds = round(time.monotonic() - self._swap_started, 3)
        line = {
            "version": version.number,
            "checksum": version.checksum,
            "seconds": seconds,
            "transport": transport,
            "bytes": sum(report.num_bytes for report in reports),
        }
        self.folder.may_write()
        with (self.folder.path / "swaps.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def release_engines(self) -> None:
        """The trainer is about to work: engines that share its GPUs give their memory back, where
        the run says so; they have it again after the next swap."""
        if self.config.rollout.engine.release_memory:
            with self.clock.phase("publish"):
                self.rollouts.release_memory()

    def restart_engines(self, engine: EngineConfig) -> None:
        """All our engines anew, as `engine` says; they serve again after the next swap."""
        self.display.warn(
            "trainer and engines drift apart: engines are restarted with "
            f"rollout.engine.precision={engine.precision}"
        )
        with self.display.phase("restarting the engines"):
            self.rollouts.restart_engines(engine)

    def report(
        self,
        state: TrainState,
        metrics: Mapping[str, float],
        scored: Sequence[ScoredAttempt] = (),
    ) -> None:
        """The finished step: to the table, the files, Prometheus and the page.

        `scored`: attempts of it as student and teacher saw them.
        """
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
        if metrics["train/skipped_steps"] and self.searching is None:
            self.display.warn(
                f"step {state.step}: no attempt had a teacher prompt or an advantage, so no "
                "optimiser step was taken"
            )
        self._step_started = time.monotonic()
        self.folder.append(report)
        if scored:
            self.scores.write(state.step, scored, self._tokenizer)
        self._page.after_step()
        self.board.publish(report)
        self.display.step(report, self._example(state.step))

    def _example(self, step: int) -> Example | None:
        """An attempt of the step to show; None where it had none, or none that can be read."""

        def read(place: int) -> Group:
            return self.store.read_group(self._groups[place].lease.name)

        try:
            return choose_example([group.attempts for group in self._groups], step, read)
        except CheckpointError as error:
            self.display.warn(str(error))
            return None

    def _newly_failed(self) -> float:
        """Verifications that infrastructure failed since the last step."""
        name, where = VERIFY_INFRASTRUCTURE_FAILURES.name, self.config.judge.where
        before, self._failed = self._failed, self.board.value(name, where=where)
        return self._failed - before

    def finish(self, state: TrainState) -> None:
        """Say where everything is."""
        self.saved()
        self.clock.enter("idle")
        how = "finished" if state.step >= self.steps else "stopped"
        self._page.finish()
        self.display.message(
            f"{how} after step {state.step}, policy version {state.version.number}; everything is "
            f"in {self.folder.path}"
        )
        self.display.message(f"what the teacher taught, token by token: {self.folder.path / NAME}")

    def _ask_teacher(self, state: TrainState, groups: Sequence[GroupReceipt]) -> dict[str, float]:
        """Success rate of answers sampled from teacher prompts: does what the teacher is shown help
        it at all?
        """
        questions = self._teacher_batches.teacher_questions(
            [self.store.read_group(group.lease.name) for group in groups],
            limit=self.config.run.diagnostics_samples,
        )
        with (
            self.clock.phase("diagnostics"),
            self.display.phase("asking the teacher", total=len(questions)) as phase,
        ):
            answers = self.rollouts.collect(
                state.step,
                questions,
                state.version,
                phase.advance,
                replace(self.config.rollout.sampling, num_attempts=1),
            )
        judged = sum(sums["attempts"] for sums in answers or ())
        if not judged:
            return {}
        rate = sum(sums["success"] for sums in answers or ()) / judged
        student = self._metrics["rollout/success_rate"]
        found = {"teacher/prompt_success": rate}
        history = [*self._history, {"rollout/success_rate": student, **found}]
        if sign := prompt_sign(history, int(judged)):
            self.display.warn(sign.text)
            found[f"collapse/{sign.name}"] = 1.0
        return found
