"""Questions that are asked for their sums alone: validation, and diagnostics of the teacher."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sdpo_megatron.fields.reading import to_plain
from sdpo_megatron.loops.workers.channel import Channel, Message
from sdpo_megatron.nouns import PolicyVersion, Question
from sdpo_megatron.rollout.config import SamplingConfig
from sdpo_megatron.rollout.store import question_to_json
from sdpo_megatron.rollout.summary import Sums


@dataclass(eq=False)
class Collect:
    """One question; `found` becomes its sums, from the worker that was `asked` last or before."""

    message: Message
    on_attempt: Callable[[], None]
    asked: Channel | None = None
    found: asyncio.Future[Sums] = field(default_factory=asyncio.Future)


class Collects:
    """The questions that workers have been asked, by number."""

    def __init__(self) -> None:
        self._open: dict[int, Collect] = {}
        self._numbers = itertools.count()

    def add(
        self,
        questions: Sequence[Question],
        version: PolicyVersion,
        seed: int,
        sampling: SamplingConfig,
        on_attempt: Callable[[], None],
    ) -> dict[int, Collect]:
        """Note these questions; `on_attempt` is called for each judged attempt."""
        added = {}
        for question in questions:
            number = next(self._numbers)
            message = {
                "number": number,
                "question": question_to_json(question),
                "version": version.number,
                "seed": seed,
                "sampling": to_plain(sampling),
            }
            added[number] = Collect(message, on_attempt)
        self._open |= added
        return added

    def ask(self, channels: Sequence[Channel], numbers: Iterable[int] | None = None) -> None:
        """Hand questions out, in turn: these, or all, that wait for an answer and that none of
        `channels` was asked before."""
        chosen = self._open if numbers is None else numbers
        waiting = [self._open[number] for number in chosen]
        waiting = [one for one in waiting if not one.found.done() and one.asked not in channels]
        if channels:
            for collect, channel in zip(waiting, itertools.cycle(channels), strict=False):
                collect.asked = channel
                channel.send("collect", **collect.message)

    def judged(self, number: int) -> None:
        """An attempt at that question was judged."""
        if number in self._open:
            self._open[number].on_attempt()

    def answer(self, number: int, sums: Sums) -> None:
        """That question's sums, if it is still wanted and nobody was first."""
        if number in self._open and not self._open[number].found.done():
            self._open[number].found.set_result(sums)

    def forget(self, numbers: Iterable[int]) -> None:
        """Nobody waits for these any more."""
        for number in numbers:
            self._open.pop(number, None)
