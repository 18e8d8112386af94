"""From a line of the data files to a Question for the code verifier.

Layout: ``task_id, question, entry_point, test``; ``hides`` and ``level`` are for people.

Item, for the code verifier: kind ``humaneval``, with an empty prompt; ``opening``: the code that
the prefill holds after its fence.
"""

from __future__ import annotations

from pathlib import Path

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import Question
from sdpo_megatron.tasks.config import TaskConfig
from sdpo_megatron.tasks.humaneval import FENCE_CLOSE, FENCE_OPEN, check_tests, public_asserts
from sdpo_megatron.tasks.lines import Line
from sdpo_megatron.tasks.task import DATA, Layout, item_options

OPENING = "def"


def question(line: Line, config: TaskConfig) -> Question:
    """The assistant's turn opens with a fence and ``def``: what comes next is the name."""
    if not config.hidden_tests:
        raise ConfigError(
            "task.hidden_tests=false: hidden_api runs the whole check of a question; set it to true"
        )
    if config.prefill == "signature":
        raise ConfigError(
            "task.prefill=signature: a signature would tell what hidden_api hides; use fence or "
            "none"
        )
    identifier, test, entry = line.text("task_id"), line.text("test"), line.text("entry_point")
    if not entry.isidentifier():
        line.fail(f"key 'entry_point': {entry!r} is not the name of a function")
    opening = OPENING if config.prefill == "fence" else ""
    prefill = FENCE_OPEN + opening if opening else ""
    asked = line.text("question")
    return Question(
        id=identifier,
        task=config.name,
        messages=(
            {
                "role": "user",
                "content": f"{asked}\n\n{config.instruction}" if config.instruction else asked,
            },
        ),
        prefill=prefill,
        stop=(FENCE_CLOSE,) if prefill else (),
        item={
            "kind": "humaneval",
            "id": identifier,
            "prompt": "",
            "opening": opening,
            "entry_point": entry,
            "test": test,
            "public": public_asserts(line, test, identifier, config),
            "opened_fence": bool(prefill),
            **item_options(config),
        },
    )


def packaged(config: TaskConfig) -> Path:
    """Written by `generator`, licensed as this project."""
    return DATA / "hidden_api" / f"{config.split}.jsonl"


LAYOUT = Layout(
    question=question,
    verifier="code",
    packaged=packaged,
    id_prefix="hidden_api/",
    check=check_tests,
)
