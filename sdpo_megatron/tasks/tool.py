"""Python as a tool for the questions of any task: what the model is told, and how it calls."""

from __future__ import annotations

import json
from dataclasses import replace

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import Question
from sdpo_megatron.tasks.config import TaskConfig

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
EXAMPLE = f'{CALL_OPEN}{{"name": "python", "arguments": {{"code": "print(6 * 7)"}}}}{CALL_CLOSE}'
_SIGNATURE = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Runs Python code by itself, without network, and returns what it prints "
        "and the value of its last expression. Nothing is kept between two calls.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string"}},
            "required": ["code"],
        },
    },
}
INSTRUCTION = (
    "You may call a tool before you answer:\n"
    f"<tools>\n{json.dumps(_SIGNATURE)}\n</tools>\n"
    f"To call it, end your turn with such a line and wait for what it returns:\n{EXAMPLE}"
)


def with_tool(question: Question, config: TaskConfig) -> Question:
    """The question as it is asked of a model that may call `config.tool`; itself without one.

    Raises:
        ConfigError: The layout opens the model's turn, so no call could be made in it.
    """
    if config.tool == "none":
        return question
    if question.prefill:
        raise ConfigError(
            f"task.tool={config.tool}: {question.task} opens the model's turn with "
            f"{question.prefill!r}, in which no tool can be called; set task.prefill=none"
        )
    first, *others = question.messages
    if first["role"] == "system":
        told = {**first, "content": f"{first['content']}\n\n{INSTRUCTION}"}
    else:
        told, others = {"role": "system", "content": INSTRUCTION}, [first, *others]
    return replace(
        question,
        messages=(told, *others),
        stop=(*question.stop, CALL_CLOSE),
        tool=config.tool,
        max_turns=config.max_turns,
    )
