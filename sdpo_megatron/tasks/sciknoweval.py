"""SciKnowEval (arXiv 2406.09098), multiple choice.

Layout: ``idx, system, prompt, answer`` with ``kind`` = ``mcq``.
"""

from __future__ import annotations

from pathlib import Path

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import Question
from sdpo_megatron.tasks.config import TaskConfig
from sdpo_megatron.tasks.lines import Line
from sdpo_megatron.tasks.task import DATA, Layout, item_options

SUBSETS = ("chemistry", "biology", "material")  # physics is in the paper, not in the public files


def question(line: Line, config: TaskConfig) -> Question:
    """The system message gives the answer format: kept unless `config.instruction` replaces it."""
    kind = line.get("kind", default="mcq")
    if kind != "mcq":
        line.fail(f"key 'kind': only multiple choice (mcq) can be verified, got {kind!r}")
    answer = line.text("answer").strip().upper()
    if answer not in ("A", "B", "C", "D"):
        line.fail(f"key 'answer': expected A, B, C or D, got {answer!r}")
    system = config.instruction or line.text("system").strip()
    prompt = line.text("prompt")
    return Question(
        id=str(line.get("idx", (int, str))),
        task=config.name,
        messages=(
            {"role": "system", "content": system},
            {"role": "user", "content": prompt},
        ),
        item={
            "answer": answer,
            "choices": "ABCD",
            "options": offered_options(prompt),
            **item_options(config),
        },
    )


def offered_options(prompt: str) -> dict[str, str]:
    """Letter -> the option's text, from the lines ``A: ...`` to ``D: ...`` that end the prompt.

    Empty unless all four are there, in order: the letters can be judged without their texts.
    """
    options, rest = {}, "\n" + prompt.removesuffix("\nPlease reason step by step.")
    for letter in "DCBA":
        rest, mark, text = rest.rpartition(f"\n{letter}: ")
        if not mark:
            return {}
        options[letter] = text.strip()
    return dict(sorted(options.items()))


def packaged(config: TaskConfig) -> Path:
    """The subset that comes with the package (MIT, see ``data/sciknoweval/LICENSE``)."""
    subset = config.subset or SUBSETS[0]
    if subset not in SUBSETS:
        raise ConfigError(f"task.subset: sciknoweval has {', '.join(SUBSETS)}; got {subset!r}")
    return DATA / "sciknoweval" / f"{subset}.jsonl"


LAYOUT = Layout(question=question, verifier="multiple_choice", packaged=packaged)
