"""An attempt as a conversation: the model speaks, a tool answers, until the model calls none.

All of it is one response. The tokens of the tool's turns are attended to by student and teacher and
never trained on (loss mask False), and they count against the limit of the response. A call is in
Hermes' form, which Qwen and others were trained on:

    <tool_call>
    {"name": "python", "arguments": {"code": "print(6 * 7)"}}
    </tool_call>

A call that cannot be read is answered with what is wrong with it, so that the model may mend it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sdpo_megatron.errors import ModelFileError
from sdpo_megatron.nouns import Attempt, FinishReason, Message, Question, VersionSpan
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.tokenizer import decode_response
from sdpo_megatron.tasks.tool import CALL_CLOSE, CALL_OPEN, EXAMPLE
from serving.completion import Completion


class CallMistake(ValueError):
    """A call that cannot be read; the text is for the model."""


class Conversation:
    """One attempt while it is being made.

    Attributes:
        response_ids: All tokens so far.
        turns: Texts so far, the model's with the stop strings that ended them.
        said: The model's last turn, control tokens spelled out: some tokenizers have some for
            calls.
    """

    def __init__(
        self,
        prompts: PromptBuilder,
        question: Question,
        prompt_ids: tuple[int, ...],
        max_tokens: int,
    ) -> None:
        """`max_tokens` bound the response, the tool's turns included."""
        self._prompts, self._question = prompts, question
        self._prompt_ids, self._max_tokens = prompt_ids, max_tokens
        self.response_ids: tuple[int, ...] = ()
        self.turns: tuple[Message, ...] = ()
        self.said = ""
        self._log_probs: tuple[float, ...] = ()
        self._loss_mask: tuple[bool, ...] = ()
        self._versions: tuple[VersionSpan, ...] = ()
        self._finish: FinishReason = "stop"
        self._text = ""

    @property
    def context_ids(self) -> tuple[int, ...]:
        """What the model goes on from."""
        return self._prompt_ids + self.response_ids

    @property
    def tokens_left(self) -> int:
        """How many more the response may have."""
        return self._max_tokens - len(self.response_ids)

    @property
    def num_turns(self) -> int:
        """Turns of the model's so far."""
        return sum(turn["role"] == "assistant" for turn in self.turns)

    @property
    def waits(self) -> bool:
        """Whether the model's last words are a call, and it may have another turn."""
        return (
            bool(self._question.tool)
            and self._finish == "stop"
            and self.num_turns < self._question.max_turns
            and CALL_CLOSE in self.said
        )

    def say(self, completion: Completion) -> None:
        """The model's turn."""
        tokenizer, before = self._prompts.tokenizer, self.context_ids
        stop = self._question.stop
        self.said = str(tokenizer.decode(list(completion.token_ids)))
        turn = decode_response(tokenizer, before, completion.token_ids)
        self._text = decode_response(tokenizer, before, completion.token_ids, stop)
        opened = "" if self.turns else self._question.prefill
        self.turns += ({"role": "assistant", "content": opened + turn},)
        self._finish = completion.finish_reason
        start = len(self.response_ids)
        self._add(completion.token_ids, completion.log_probs, sampled=True)
        for span in completion.versions:
            self._span(start + span.start, start + span.end, span.version)

    def hear(self, content: str) -> None:
        """The tool's turn. One that leaves the model no room to answer is not heard: the attempt
        ends, cut at its limit."""
        ids = self._reply_ids(content)
        if len(ids) >= self.tokens_left:
            self._finish = "length"
            return
        self._add(ids, (0.0,) * len(ids), sampled=False)
        if self._versions:
            last = self._versions[-1]
            self._span(last.end, len(self.response_ids), last.version)
        self.turns += ({"role": "tool", "content": content},)

    def attempt(self, index: int, seed: int | None) -> Attempt:
        """What has become of it."""
        return Attempt(
            question_id=self._question.id,
            index=index,
            prompt_ids=self._prompt_ids,
            response_ids=self.response_ids,
            log_probs=self._log_probs,
            loss_mask=self._loss_mask,
            versions=self._versions,
            finish_reason=self._finish,
            text=self._text,
            seed=seed,
            turns=self.turns if len(self.turns) > 1 else (),
        )

    def _add(self, ids: Sequence[int], log_probs: Sequence[float], *, sampled: bool) -> None:
        self.response_ids += tuple(ids)
        self._log_probs += tuple(log_probs)
        self._loss_mask += (sampled,) * len(ids)

    def _span(self, start: int, end: int, version: int) -> None:
        *before, last = self._versions or (None,)
        if last is not None and last.version == version:
            self._versions = (*before, replace(last, end=end))
        else:
            self._versions += (VersionSpan(start, end, version),)

    def _reply_ids(self, content: str) -> tuple[int, ...]:
        """By the template's own form for tools; as a user's words where it has none."""
        try:
            return self._prompts.reply_ids(self._question.messages, "tool", content)
        except ModelFileError:
            return self._prompts.reply_ids(self._question.messages, "user", content)


def called_code(turn: str) -> str:
    """The code of the call that ends a turn of the model's.

    Raises:
        CallMistake: It is not in the form above.
    """
    before, _, _ = turn.partition(CALL_CLOSE)
    _, opened, body = before.rpartition(CALL_OPEN)
    if not opened:
        raise CallMistake(f"There is no {CALL_OPEN} before this {CALL_CLOSE}. {_EXPECTED}")
    try:
        call: Any = json.loads(body, strict=False)  # a line break inside a string is clear enough
    except (ValueError, RecursionError) as error:
        raise CallMistake(f"The call is not JSON: {error}. {_EXPECTED}") from error
    arguments = call.get("arguments") if isinstance(call, dict) else None
    code = arguments.get("code") if isinstance(arguments, dict) else None
    if not isinstance(code, str) or call.get("name") != "python":
        raise CallMistake(f"The call does not name python and its code. {_EXPECTED}")
    return code


_EXPECTED = f"Expected: {EXAMPLE}"


def transcript(turns: Sequence[Message]) -> str:
    """A conversation as one text, for a demonstration."""
    shown = (
        turn["content"].strip()
        if turn["role"] == "assistant"
        else f"<tool_response>\n{turn['content'].strip()}\n</tool_response>"
        for turn in turns
    )
    return "\n".join(shown)
