"""A rollout worker: makes the groups that it is leased until it is told to end, or left alone.

    python -m sdpo_megatron.loops.workers.worker RUN_FOLDER SOCKET NAME

SIGTERM ends it in order: what it was making is given out again. It ends as well when the
controller's socket closes. `joining` has those that join from elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdpo_megatron.config import TrainConfig, load_saved
from sdpo_megatron.errors import SdpoError
from sdpo_megatron.fields.reading import build
from sdpo_megatron.judging.judge import Judge, open_judge
from sdpo_megatron.loops.workers.channel import Channel, Message
from sdpo_megatron.nouns import Attempt, GroupLease, PolicyVersion, Question, Verdict
from sdpo_megatron.objectives import build_objective
from sdpo_megatron.observability.board import Board
from sdpo_megatron.rollout.admission import is_stale
from sdpo_megatron.rollout.batch import BatchMaker
from sdpo_megatron.rollout.config import SamplingConfig
from sdpo_megatron.rollout.group_file import receipt_to_plain
from sdpo_megatron.rollout.making import GroupMaker
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.sampler import Sampler
from sdpo_megatron.rollout.store import question_from_json
from sdpo_megatron.rollout.summary import group_sums
from sdpo_megatron.rollout.teacher_prompts import TeacherPromptBuilder
from sdpo_megatron.rollout.tokenizer import load_tokenizer
from sdpo_megatron.tasks import load_task
from serving.router import Roster, Router, Served, engines_of

_BEATS = 4  # signs of life within the time that silence may last


@dataclass
class _Work:
    """A group in the making. `since` is the version that its first request was sent to."""

    task: asyncio.Task[None] | None = field(default=None, repr=False)
    since: int | None = None


class Worker:
    """One worker, at its end of the channel.

    Attributes:
        failure: Why it could not begin.
    """

    def __init__(self, config: TrainConfig, rollouts: Path, channel: Channel) -> None:
        self._config, self._rollouts, self._channel = config, rollouts, channel
        self._router = Router(config.rollout.engine, self._complain, self._note_load)
        self.failure: SdpoError | None = None
        self._version = 0
        self._groups: dict[int, _Work] = {}
        self._collecting: dict[int, asyncio.Task[None]] = {}
        self._samplers: dict[SamplingConfig, Sampler] = {}

    async def run(self) -> None:
        """Work until the channel closes or this task is cancelled."""
        config = self._config
        task = load_task(config.task)
        self._questions = {question.id: question for question in task.questions}
        self._prompts = PromptBuilder(
            load_tokenizer(config.model.path), thinking=config.rollout.sampling.thinking
        )
        batches = BatchMaker(
            TeacherPromptBuilder(self._prompts, config.rollout.teacher_prompt),
            build_objective(config.objective),
        )
        board = _Forwarded(self._channel)
        try:
            async with open_judge(
                config.judge, config.sandbox, task, warn=self._warn, board=board
            ) as self._judge:
                self._maker = GroupMaker(
                    self._sampler(config.rollout.sampling),
                    self._judge,
                    batches,
                    self._rollouts,
                    null_prompts=config.run.diagnostics_every > 0,
                )
                self._channel.send("ready")
                beating = asyncio.ensure_future(self._beat())
                try:
                    await self._serve()
                finally:
                    beating.cancel()
        except SdpoError as error:
            self.failure = error
            self._failed(error)

    async def _beat(self) -> None:
        while True:
            self._channel.send("alive")
            await asyncio.sleep(self._config.rollout.workers.silence_timeout_s / _BEATS)

    async def _serve(self) -> None:
        handlers: dict[str, Callable[[Message], None]] = {
            "welcome": lambda _: None,
            "roster": self._on_roster,
            "lease": self._on_lease,
            "give_up": self._on_give_up,
            "collect": self._on_collect,
            "abandon": self._on_abandon,
        }
        try:
            async for message in self._channel.messages():
                handlers[message["kind"]](message)
        finally:
            tasks = [work.task for work in self._groups.values() if work.task]
            tasks += self._collecting.values()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._router.close()

    def _on_roster(self, message: Message) -> None:
        facts = {name: value for name, value in message.items() if name != "kind"}
        roster = Roster(**{**facts, "engines": engines_of(message["engines"])})
        self._version = roster.version
        self._router.show(roster)
        eta = self._config.rollout.max_staleness
        for position, work in list(self._groups.items()):
            if is_stale(work.since, self._version, eta):  # it could never be trained on
                self._cancel(position)
                self._channel.send("gave_up", position=position, reason="stale")

    def _on_lease(self, message: Message) -> None:
        for row in message["groups"]:
            self._cancel(row["position"])  # given out again: the old try took too long
            lease = GroupLease(row["position"], row["number"])
            version = None if row["version"] is None else PolicyVersion(row["version"])
            work = self._groups[lease.position] = _Work()
            work.task = asyncio.ensure_future(
                self._told(self._make(lease, self._asked(row), version, row["seed"], work))
            )

    def _on_give_up(self, message: Message) -> None:
        for position in message["positions"]:
            self._cancel(position)

    def _on_collect(self, message: Message) -> None:
        number = message["number"]
        self._collecting[number] = asyncio.ensure_future(self._told(self._collect(message)))

    def _on_abandon(self, message: Message) -> None:
        for number in message["numbers"]:
            if task := self._collecting.pop(number, None):
                task.cancel()

    def _asked(self, row: Message) -> Question:
        question = self._questions[row["question"]]
        return replace(question, messages=(*question.messages, *row["turns"]))

    async def _make(
        self,
        lease: GroupLease,
        question: Question,
        version: PolicyVersion | None,
        seed: int,
        work: _Work,
    ) -> None:
        def on_start() -> None:
            work.since = self._version if work.since is None else work.since

        def on_attempt(_question: Question, attempt: Attempt, verdict: Verdict) -> None:
            self._channel.send(
                "attempt",
                position=lease.position,
                finish=attempt.finish_reason,
                tokens=len(attempt.response_ids),
                reward=verdict.reward,
                success=verdict.success,
            )

        try:
            receipt = await self._maker.make(lease, question, version, seed, on_attempt, on_start)
            self._channel.send("receipt", receipt=receipt_to_plain(receipt))
        finally:
            if self._groups.get(lease.position) is work:
                del self._groups[lease.position]

    async def _collect(self, message: Message) -> None:
        def on_attempt(_question: Question, _attempt: Attempt, _verdict: Verdict) -> None:
            self._channel.send("attempt", number=message["number"])

        group = await self._sampler(build(SamplingConfig, message["sampling"])).sample_group(
            question_from_json(message["question"]),
            self._judge,
            PolicyVersion(message["version"]),
            message["seed"],
            on_attempt,
        )
        self._collecting.pop(message["number"], None)
        self._channel.send("collected", number=message["number"], sums=group_sums(group))

    async def _told(self, work: Coroutine[Any, Any, None]) -> None:
        """What goes wrong in it reaches the controller."""
        try:
            await work
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        known = isinstance(error, SdpoError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        self._channel.send("failed", error=type(error).__name__ if known else "", text=text)
        with contextlib.suppress(OSError):  # the log may lie on the disk that is full
            traceback.print_exception(error)

    def _sampler(self, sampling: SamplingConfig) -> Sampler:
        """One for each way to sample, so that its limit of requests holds over all groups."""
        if sampling not in self._samplers:
            self._samplers[sampling] = Sampler(
                self._router, self._prompts, sampling, self._judge.run_tool
            )
        return self._samplers[sampling]

    def _cancel(self, position: int) -> None:
        work = self._groups.pop(position, None)
        if work and work.task:
            work.task.cancel()

    def _warn(self, text: str) -> None:
        self._channel.send("warn", text=text)

    def _complain(self, engine: Served, why: str, reason: str) -> None:
        self._channel.send("complain", engine=[engine.url, engine.life], why=why, reason=reason)

    def _note_load(self, engine: Served, in_flight: int) -> None:
        self._channel.send("load", engine=[engine.url, engine.life], in_flight=in_flight)

    _judge: Judge
    _maker: GroupMaker
    _prompts: PromptBuilder
    _questions: dict[str, Question]


class _Forwarded(Board):
    """A board whose changes are made on the controller's."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        self._channel.send("board", how="add", name=name, value=amount, labels=labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        self._channel.send("board", how="observe", name=name, value=value, labels=labels)

    def set(self, name: str, value: float, **labels: str) -> None:
        self._channel.send("board", how="set", name=name, value=value, labels=labels)


async def _work(folder: Path, socket: str, name: str) -> None:
    channel = Channel(*await asyncio.open_unix_connection(socket))
    channel.send("hello", name=name)
    worker = Worker(load_saved(folder / "config.yaml"), folder / "rollouts", channel)
    working = asyncio.ensure_future(worker.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await working
    await channel.close()


def main(argv: list[str]) -> int:
    """Run a worker; the exit code is 0 when it was asked to end."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    logging.captureWarnings(True)
    folder, socket, name = argv
    asyncio.run(_work(Path(folder), socket, name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
