"""Rank 0's record of the searches of `sdpo discover`: which one is on, and what each came to."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.discovery.conversation import Turn, messages_after
from sdpo_megatron.discovery.searches import SEARCHES, Search, write_line
from sdpo_megatron.loops.questions import batches_of_search
from sdpo_megatron.loops.state import TrainState
from sdpo_megatron.nouns import Group, Message, Question
from sdpo_megatron.observability.run_folder import RunFolder
from sdpo_megatron.rollout.prompts import PromptBuilder


class Searching:
    """The search that is on."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        questions: Sequence[Question],
        prompts: PromptBuilder,
    ) -> None:
        """Prepare; `begin` says which search it is."""
        assert config.discovery is not None
        self._config, self._folder, self._discovery = config, folder, config.discovery
        self._questions, self._prompts = questions, prompts
        self._groups: list[Group] = []
        self._search = 0
        self._began = time.monotonic()

    def begin(self, search: int, groups: Sequence[Group] = ()) -> None:
        """Search number `search` (from 0) is on; `groups` are its batches so far."""
        self._search, self._groups, self._began = search, list(groups), time.monotonic()

    @property
    def question(self) -> Question:
        """What is searched."""
        return self._questions[self._search % len(self._questions)]

    @property
    def num_attempts(self) -> int:
        """Of this search, so far."""
        return sum(len(group.attempts) for group in self._groups)

    def turns(self) -> tuple[Message, ...]:
        """What has been said since the question: nothing, but in a conversation."""
        if self._discovery.method != "multi_turn":
            return ()
        question = self.question
        turns = [
            Turn(question.prefill + attempt.text + "".join(question.stop[:1]), verdict.feedback)
            for group in self._groups
            for attempt, verdict in zip(group.attempts, group.verdicts, strict=True)
        ]
        return messages_after(question, turns, self._num_tokens, self._discovery.window_tokens)

    def note(self, state: TrainState, groups: Sequence[Group]) -> Search | None:
        """A batch is there, that of the step after `state`: what the search came to when it is
        over with it, which goes on record; None when it goes on.
        """
        before = self.num_attempts
        self._groups += groups
        verdicts = [verdict for group in groups for verdict in group.verdicts]
        texts = [attempt.text for group in groups for attempt in group.attempts]
        first = next((n for n, verdict in enumerate(verdicts) if verdict.success), None)
        batches = state.step + 1 - state.search_began
        if first is None and batches < batches_of_search(self._config):
            return None
        found = Search(
            method=self._discovery.method,
            question_id=self.question.id,
            seed=self._config.run.seed + self._search // len(self._questions),
            budget=self._discovery.attempts,
            attempts=self.num_attempts,
            found_at=None if first is None else before + first + 1,
            solution="" if first is None else self.question.prefill + texts[first],
            seconds=round(time.monotonic() - self._began, 1),
            successes=sum(verdict.success for verdict in verdicts),
        )
        self._folder.may_write()
        with (self._folder.path / SEARCHES).open("a") as file:
            file.write(write_line(found) + "\n")
        return found

    def _num_tokens(self, messages: tuple[Message, ...]) -> int:
        return len(self._prompts.encode(messages, self.question.prefill))


def words(search: Search, number: int, of: int) -> str:
    """A finished search, for the display."""
    name = f"search {number} of {of}, {search.question_id}"
    if search.found_at is None:
        return f"{name}: not solved in {search.attempts} attempts, {search.seconds:.0f} s"
    return f"{name}: solved by attempt {search.found_at}, after {search.seconds:.0f} s"
