"""A response of several turns: which tokens are the model's, which the tool's, where it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError, ModelFileError
from sdpo_megatron.nouns import Group, Question, Verdict, VersionSpan
from sdpo_megatron.rollout.config import TeacherPromptConfig
from sdpo_megatron.rollout.conversation import CallMistake, Conversation, called_code, transcript
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.store import group_from_json, group_to_json
from sdpo_megatron.rollout.teacher_prompts import TeacherPromptBuilder
from sdpo_megatron.tasks import TaskConfig, load_task
from sdpo_megatron.tasks.tool import CALL_CLOSE, EXAMPLE, INSTRUCTION
from serving.completion import Completion

QUESTION = Question(
    id="q", task="t", messages=({"role": "user", "content": "What is 6 * 7?"},),
    stop=(CALL_CLOSE,), tool="python", max_turns=3,
)  # fmt: skip
CALL = f"I ask.\n<tool_call>{json.dumps({'name': 'python', 'arguments': {'code': '6 * 7'}})}"


def said(tokenizer: Any, text: str, *versions: int, end: str = "<|im_end|>") -> Completion:
    """A turn; half of its tokens of each version."""
    ids = tuple(tokenizer(text + end, add_special_tokens=False)["input_ids"])
    cuts = [len(ids) * i // len(versions) for i in range(len(versions) + 1)]
    return Completion(
        token_ids=ids,
        log_probs=tuple(-0.5 - i for i in range(len(ids))),
        finish_reason="stop",
        versions=tuple(
            VersionSpan(*span) for span in zip(cuts[:-1], cuts[1:], versions, strict=True)
        ),
    )


def conversation(tokenizer: Any, question: Question = QUESTION, limit: int = 500) -> Conversation:
    prompts = PromptBuilder(tokenizer)
    return Conversation(prompts, question, prompts.question_ids(question), limit)


def test_every_token_is_as_the_template_has_it_and_only_the_models_own_are_trained_on(
    tokenizer: Any,
) -> None:
    talk = conversation(tokenizer)
    first, last = said(tokenizer, CALL, 3, end=CALL_CLOSE), said(tokenizer, "It is 42.", 3, 4)
    talk.say(first)
    assert talk.waits
    assert called_code(talk.said) == "6 * 7"
    talk.hear("42 <|im_end|>")
    talk.say(last)
    assert not talk.waits
    attempt = talk.attempt(2, 11)
    whole = tokenizer.apply_chat_template(
        [
            *QUESTION.messages,
            {"role": "assistant", "content": CALL + CALL_CLOSE},
            {"role": "tool", "content": "42 X"},
            {"role": "assistant", "content": "It is 42."},
        ],
        tokenize=False,
    )
    shown = tokenizer.decode(list(attempt.prompt_ids + attempt.response_ids))
    assert shown.replace("42 <|im_end|>", "42 X") + "\n" == whole
    assert shown.count("<|im_end|>") == 5  # the tool's spelling is text: see below
    control = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (attempt.prompt_ids + attempt.response_ids).count(control) == 4
    heard = len(attempt.response_ids) - len(first.token_ids) - len(last.token_ids)
    lengths = (len(first.token_ids), heard, len(last.token_ids))
    assert attempt.loss_mask == (True,) * lengths[0] + (False,) * heard + (True,) * lengths[2]
    assert attempt.log_probs == first.log_probs + (0.0,) * heard + last.log_probs
    border = len(attempt.response_ids) - lengths[2] + lengths[2] // 2
    assert attempt.versions == (
        VersionSpan(0, border, 3),
        VersionSpan(border, len(attempt.response_ids), 4),
    )
    assert (attempt.text, attempt.finish_reason, attempt.seed) == ("It is 42.", "stop", 11)
    assert [turn["role"] for turn in attempt.turns] == ["assistant", "tool", "assistant"]


def test_one_turn_is_what_it_was_before_there_were_tools(tokenizer: Any) -> None:
    talk = conversation(tokenizer, replace(QUESTION, tool="", max_turns=1, prefill="So "))
    completion = said(tokenizer, CALL, 1, 2, end=CALL_CLOSE)
    talk.say(completion)
    attempt = talk.attempt(0, None)
    assert not talk.waits
    assert attempt.turns == ()
    assert (attempt.response_ids, attempt.log_probs) == (completion.token_ids, completion.log_probs)
    assert attempt.versions == completion.versions
    assert all(attempt.loss_mask)
    assert attempt.text == CALL  # without the stop string


def test_the_last_turn_calls_nobody(tokenizer: Any) -> None:
    talk = conversation(tokenizer, replace(QUESTION, max_turns=2))
    talk.say(said(tokenizer, CALL, 0, end=CALL_CLOSE))
    talk.hear("42")
    talk.say(said(tokenizer, CALL, 0, end=CALL_CLOSE))
    assert not talk.waits


def test_an_answer_that_leaves_no_room_ends_the_attempt_at_its_limit(tokenizer: Any) -> None:
    talk = conversation(tokenizer)
    talk.say(said(tokenizer, CALL, 0, end=CALL_CLOSE))
    spoken = len(talk.response_ids)
    answer = len(PromptBuilder(tokenizer).reply_ids(QUESTION.messages, "tool", "42"))
    for room, heard in ((answer, 0), (answer + 1, answer)):
        talk = conversation(tokenizer, limit=spoken + room)
        talk.say(said(tokenizer, CALL, 0, end=CALL_CLOSE))
        talk.hear("42")
        assert len(talk.response_ids) == spoken + heard
        assert talk.waits == bool(heard) == (talk.attempt(0, None).finish_reason == "stop")
        assert talk.tokens_left == room - heard


def test_a_template_without_tools_hears_a_user(tokenizer: Any) -> None:
    plain = PromptBuilder(tokenizer)
    mine = "m.role in ('user', 'assistant', 'system')"
    known = "{% if not " + mine + " %}{{ raise_exception('no') }}{% endif %}"
    silent = "{% if " + mine + " %}{{ m.content }}{% endif %}"
    original = tokenizer.chat_template
    try:
        for body in (known + "{{ m.content }}", silent):
            tokenizer.chat_template = (
                "{% for m in messages %}<|im_start|>{{ m.role }}\n" + body + "<|im_end|>\n"
                "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
            )
            with pytest.raises(ModelFileError):
                plain.reply_ids(QUESTION.messages, "tool", "42")
            talk = conversation(tokenizer)
            talk.say(said(tokenizer, CALL, 0, end=CALL_CLOSE))
            before = len(talk.response_ids)
            talk.hear("42")
            heard = tokenizer.decode(list(talk.response_ids[before:]))
            assert heard == "<|im_end|>\n<|im_start|>user\n42<|im_end|>\n<|im_start|>assistant\n"
    finally:
        tokenizer.chat_template = original


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        ("x = 1</tool_call>", "no <tool_call>"),
        ("<tool_call>print(1)</tool_call>", "not JSON"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "not JSON"),
        ("<tool_call>[]</tool_call>", "does not name python"),
        ('<tool_call>{"name": "python", "arguments": "x"}</tool_call>', "does not name python"),
        ('<tool_call>{"name": "python", "arguments": {"code": 1}}</tool_call>', "does not name"),
        ('<tool_call>{"name": "sh", "arguments": {"code": "ls"}}</tool_call>', "does not name"),
    ],
)
def test_a_call_that_cannot_be_read_says_why(turn: str, problem: str) -> None:
    with pytest.raises(CallMistake, match=problem) as told:
        called_code(turn)
    assert EXAMPLE in str(told.value)


def test_calls_that_can_be_read() -> None:
    assert called_code(EXAMPLE) == "print(6 * 7)"
    call = '<tool_call>\n{"name": "python", "arguments": {"code": "a\nb"}}\n'
    assert called_code(f"a <tool_call> b {call}") == "a\nb"


def test_a_demonstration_shows_the_whole_conversation(tokenizer: Any) -> None:
    talk = conversation(tokenizer)
    talk.say(said(tokenizer, CALL, 0, end=CALL_CLOSE))
    talk.hear("42")
    talk.say(said(tokenizer, "It is 42.", 0))
    wrong = conversation(tokenizer)
    wrong.say(said(tokenizer, "It is 41.", 0))
    group = Group(
        question=QUESTION,
        attempts=(talk.attempt(0, None), wrong.attempt(1, None)),
        verdicts=(
            Verdict(reward=1, success=True, format_ok=True, feedback=""),
            Verdict(reward=0, success=False, format_ok=True, feedback="no"),
        ),
    )
    builder = TeacherPromptBuilder(PromptBuilder(tokenizer), TeacherPromptConfig())
    _, context = builder.contexts(group)
    assert context is not None
    assert context.has_solution
    shown = f"{CALL}{CALL_CLOSE}\n<tool_response>\n42\n</tool_response>\nIt is 42."
    assert shown == transcript(group.attempts[0].turns)
    assert shown in context.messages[-1]["content"]
    assert group_from_json(json.loads(json.dumps(group_to_json(group)))) == group


def test_a_task_tells_the_model_of_its_tool() -> None:
    plain = load_task(TaskConfig(name="gsm8k", limit=1)).questions[0]
    asked = load_task(TaskConfig(name="gsm8k", limit=1, tool="python", max_turns=6)).questions[0]
    assert asked.messages == ({"role": "system", "content": INSTRUCTION}, *plain.messages)
    assert (asked.tool, asked.max_turns, asked.stop) == ("python", 6, (CALL_CLOSE,))
    assert (plain.tool, plain.max_turns) == ("", 1)
    with pytest.raises(ConfigError, match=r"task\.prefill=none"):
        load_task(TaskConfig(name="humaneval", limit=1, tool="python"))
    coded = load_task(TaskConfig(name="humaneval", limit=1, tool="python", prefill="none"))
    assert coded.questions[0].stop == (CALL_CLOSE,)
