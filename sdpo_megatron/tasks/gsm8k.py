"""GSM8K (arXiv 2110.14168): ``question``, ``answer`` whose last line is ``#### number``."""

from __future__ import annotations

from sdpo_megatron.nouns import Question
from sdpo_megatron.tasks.config import TaskConfig
from sdpo_megatron.tasks.lines import Line
from sdpo_megatron.tasks.task import DATA, Layout, item_options

INSTRUCTION = "Reason step by step, and put the final answer inside \\boxed{}."


def question(line: Line, config: TaskConfig) -> Question:
    """Ids are ``gsm8k/<line - 1>``: the layout has none of its own."""
    _, marker, answer = line.text("answer").rpartition("####")
    if not marker or not answer.strip():
        line.fail("key 'answer': expected it to end in '#### <number>'")
    prompt = f"{line.text('question').strip()}\n\n{config.instruction or INSTRUCTION}"
    return Question(
        id=f"gsm8k/{line.number - 1}",
        task=config.name,
        messages=({"role": "user", "content": prompt},),
        item={"answer": answer.strip(), **item_options(config)},
    )


LAYOUT = Layout(
    question=question,
    verifier="mathematics",
    packaged=lambda config: DATA / "gsm8k" / "train.jsonl",
    id_prefix="gsm8k/",
)
