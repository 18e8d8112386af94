"""SciKnowEval (arXiv 2406.09098), multiple choice.

Layout: ``idx, system, prompt, answer`` with ``kind`` = ``mcq``. The SDPO authors' files are a
folder of ``SUBSET/train.jsonl`` and ``SUBSET/test.jsonl``; `path`, `subset`, `split` name them:

    chemistry  1890 train,  210 test
    biology     450 train,   50 test
    material    841 train,   94 test
    physics     720 train,   80 test    (the same keys; not among the packaged questions)
"""

from __future__ import annotations

from pathlib import Path

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.nouns import Question
from sdpo_megatron.tasks.config import TaskConfig
from sdpo_megatron.tasks.lines import Line
from sdpo_megatron.tasks.task import DATA, Layout, item_options

SUBSETS = ("chemistry", "biology", "material", "physics")
PACKAGED = SUBSETS[:3]


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
    if subset not in PACKAGED:
        raise ConfigError(
            f"task.subset: {subset} does not come with the package ({', '.join(PACKAGED)} do); set "
            f"task.path to a folder with {subset}/train.jsonl and {subset}/test.jsonl"
        )
    return DATA / "sciknoweval" / f"{subset}.jsonl"


LAYOUT = Layout(question=question, verifier="multiple_choice", packaged=packaged)
