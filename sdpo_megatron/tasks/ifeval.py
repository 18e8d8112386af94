"""IFEval (arXiv 2311.07911): ``key, prompt, instruction_id_list, kwargs``."""

from __future__ import annotations

from sdpo_megatron.nouns import Question
from sdpo_megatron.tasks.config import TaskConfig
from sdpo_megatron.tasks.lines import Line
from sdpo_megatron.tasks.task import DATA, Layout, item_options


def question(line: Line, config: TaskConfig) -> Question:
    """`config.instruction` is not used: here the instructions are the task."""
    instructions = line.get("instruction_id_list", list)
    arguments = line.get("kwargs", list)
    if not instructions or len(instructions) != len(arguments):
        line.fail(
            f"{len(instructions)} instructions but {len(arguments)} kwargs; "
            "expected equal numbers, at least 1"
        )
    if not all(isinstance(a, dict) for a in arguments):
        line.fail("key 'kwargs': expected a list of objects")
    prompt = line.text("prompt")
    kwargs = [{key: value for key, value in a.items() if value is not None} for a in arguments]
    return Question(
        id=f"ifeval/{line.get('key', (int, str))}",
        task=config.name,
        messages=({"role": "user", "content": prompt},),
        item={
            "prompt": prompt,
            "instruction_id_list": instructions,
            "kwargs": kwargs,
            **item_options(config),
        },
    )


LAYOUT = Layout(
    question=question,
    verifier="instruction_following",
    packaged=lambda config: DATA / "ifeval" / "own.jsonl",
    id_prefix="ifeval/",
)
