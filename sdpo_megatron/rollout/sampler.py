"""Groups of attempts: many requests in flight, each attempt judged as soon as it is complete."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from sdpo_megatron.errors import ConfigError, EngineError, NoVerdict
from sdpo_megatron.nouns import Attempt, Group, PolicyVersion, Question, Verdict
from sdpo_megatron.rollout.capacity import num_engines, requests_in_flight
from sdpo_megatron.rollout.config import SamplingConfig
from sdpo_megatron.rollout.conversation import CallMistake, Conversation, called_code
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.verifiers.harmless import harmless
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig

JudgeAttempt = Callable[[Question, str], Awaitable[Verdict]]
RunTool = Callable[[Question, str], Awaitable[str]]
T = TypeVar("T")
OnAttempt = Callable[[Question, Attempt, Verdict], None]


class Engines(Protocol):
    """Where requests go: `serving.router.Router`, or a pool with one of its own."""

    config: EngineConfig

    async def generate(self, prompt_ids: Sequence[int], sampling: SamplingParams) -> Completion:
        """See `Router.generate`."""
        ...


class Sampler:
    """Samples and judges groups through engines; at most `concurrency` requests at a time.

    Attributes:
        num_retries: Attempts sampled again after an engine error, so far.
        num_dropped: Attempts lost because no verifier could judge them, so far.
    """

    def __init__(
        self,
        engines: Engines,
        prompts: PromptBuilder,
        config: SamplingConfig,
        run_tool: RunTool | None = None,
    ):
        """`run_tool` gives what comes back when the tool of a question is called with some code;
        questions that have one need it.
        """
        self.engines = engines
        self._run_tool = run_tool
        self.prompts = prompts
        self.config = config
        self.num_retries = 0
        self.num_dropped = 0
        self._slots = asyncio.Semaphore(
            requests_in_flight(config, engines.config, num_engines(engines.config))
        )

    async def sample_groups(
        self,
        questions: Sequence[Question],
        judge: JudgeAttempt,
        version: PolicyVersion | None,
        step_seed: int,
        on_attempt: OnAttempt | None = None,
    ) -> list[Group]:
        """A group (see `sample_group`) for each question, in order; when one fails, all do."""
        return await _all_or_cancel(
            self.sample_group(question, judge, version, step_seed, on_attempt)
            for question in questions
        )

    async def sample_group(
        self,
        question: Question,
        judge: JudgeAttempt,
        version: PolicyVersion | None,
        step_seed: int,
        on_attempt: OnAttempt | None = None,
        on_start: Callable[[], None] = lambda: None,
    ) -> Group:
        """`num_attempts` attempts at a question, judged.

        Args:
            judge: Raises NoVerdict when it could not judge; the attempt is then dropped and
                counted.
            version: What every token must come from; an attempt that says otherwise is sampled
                again. None: any versions will do, and the attempt says which.
            step_seed: Makes seeds differ between steps; usually the step's number.
            on_attempt: Called, in this event loop, as each verdict arrives.
            on_start: Called before each request of the group is sent.

        Raises:
            EngineDiedError: every engine is lost.
            EngineError: a request was refused `retries` + 1 times; the group's other requests are
                cancelled.
        """
        prompt_ids = self.prompts.question_ids(question)

        async def attempt_and_judge(index: int) -> tuple[Attempt, Verdict] | None:
            try:
                attempt = await self._attempt(
                    question, prompt_ids, index, version, step_seed, on_start
                )
                verdict = await judge(question, attempt.text)
            except NoVerdict:
                self.num_dropped += 1
                return None
            if on_attempt is not None:
                on_attempt(question, attempt, verdict)
            return attempt, verdict

        judged = await _all_or_cancel(
            attempt_and_judge(index) for index in range(self.config.num_attempts)
        )
        kept = [pair for pair in judged if pair is not None]
        return Group(
            question=question,
            attempts=tuple(attempt for attempt, _ in kept),
            verdicts=tuple(verdict for _, verdict in kept),
            dropped=len(judged) - len(kept),
        )

    async def _attempt(
        self,
        question: Question,
        prompt_ids: tuple[int, ...],
        index: int,
        version: PolicyVersion | None,
        step_seed: int,
        on_start: Callable[[], None],
    ) -> Attempt:
        seed = None
        if self.engines.config.deterministic:
            seed = attempt_seed(self.config.seed, step_seed, question.id, index)
        conversation = Conversation(self.prompts, question, prompt_ids, self.config.max_new_tokens)
        while True:
            turn = conversation.num_turns
            sampling = SamplingParams(
                temperature=self.config.temperature,
                top_p=self.config.top_p,
                max_new_tokens=conversation.tokens_left,
                stop=question.stop,
                seed=_turn_seed(seed, turn),
            )
            who = f"{question.id}, attempt {index}"
            async with self._slots:
                on_start()
                conversation.say(
                    await self._complete(conversation.context_ids, sampling, version, who)
                )
            if not conversation.waits:
                return conversation.attempt(index, seed)
            conversation.hear(await self._answer(question, conversation.said))

    async def _complete(
        self,
        context_ids: tuple[int, ...],
        sampling: SamplingParams,
        version: PolicyVersion | None,
        who: str,
    ) -> Completion:
        for retry in range(self.config.retries + 1):
            self.num_retries += retry > 0
            try:
                completion = await self.engines.generate(context_ids, sampling)
                _check(completion, version)
                return completion
            except EngineError as error:
                last = error
        raise type(last)(f"{who}: {last}") from last

    async def _answer(self, question: Question, said: str) -> str:
        """The tool's turn after the model's."""
        if self._run_tool is None:
            raise ConfigError(f"{question.id} has a tool, and nobody here runs it")
        try:
            code = called_code(said)
        except CallMistake as mistake:
            return harmless(str(mistake))
        return await self._run_tool(question, code)


def attempt_seed(run_seed: int, step_seed: int, question_id: str, index: int) -> int:
    """A seed below 2**62 that depends on nothing but its arguments, in any process."""
    key = f"{run_seed}/{step_seed}/{question_id}/{index}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 2


def _turn_seed(seed: int | None, turn: int) -> int | None:
    """Turns of one attempt differ in their seeds; the first has the attempt's own."""
    return seed if seed is None or turn == 0 else attempt_seed(seed, turn, "", 0)


def _check(completion: Completion, version: PolicyVersion | None) -> None:
    if completion.finish_reason == "abort":
        raise EngineError("the engine aborted the request")
    if version is None:
        return
    others = {span.version for span in completion.versions} - {version.number}
    if others:
        raise EngineError(
            f"sampled from policy version {', '.join(map(str, sorted(others)))}, expected "
            f"{version.number}"
        )


async def _all_or_cancel(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """`asyncio.gather` that cancels the rest when one fails."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
