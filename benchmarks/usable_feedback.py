"""Which questions a model can answer once it has read the feedback: what it can teach itself.

    python benchmarks/usable_feedback.py [--asked 16] [--out FILE] experiment=hidden_api task.ids=[]

Each question is asked twice as it stands, then `--asked` times under the teacher's prompt of a
failed attempt (a sibling's solution is never shown here). Self-distillation from that prompt cannot
lead far beyond what is right there, so `teacher` near 0 means that nothing can be learnt, and
`student` near 1 that nothing need be. Prints a row for each question, writes JSON with `--out`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdpo_megatron import config as configs
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.judging.judge import Judge, open_judge
from sdpo_megatron.nouns import Group, PolicyVersion, Question
from sdpo_megatron.objectives import build_objective
from sdpo_megatron.rollout.batch import BatchMaker
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.sampler import Sampler
from sdpo_megatron.rollout.teacher_prompts import TeacherPromptBuilder
from sdpo_megatron.rollout.tokenizer import load_tokenizer
from sdpo_megatron.tasks import load_task
from serving.pool import EnginePool

PLAIN = 2
AT_ONCE = 16
VERSION = PolicyVersion(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--asked", type=int, default=16, help="answers under each teacher's prompt")
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="+")
    arguments = parser.parse_args()
    config = configs.load(arguments.overrides)
    if config.model.prepare == "smollm2_135m":
        from sdpo_megatron.weights.smollm2 import prepare

        prepare(Path(config.model.path))
    rows = asyncio.run(measure(config, arguments.asked))
    if arguments.out:
        arguments.out.write_text(
            json.dumps({"overrides": arguments.overrides, "rows": rows}) + "\n"
        )


async def measure(config: TrainConfig, asked: int) -> list[dict[str, Any]]:
    """A row for each question: how often it was solved as it stands and under the teacher's."""
    task = load_task(config.task)
    prompts = PromptBuilder(load_tokenizer(config.model.path))
    batches = BatchMaker(
        TeacherPromptBuilder(prompts, replace(config.rollout.teacher_prompt, use_solutions=False)),
        build_objective(config.objective),
    )
    rows = []
    with tempfile.TemporaryDirectory() as logs:
        async with (
            EnginePool(config.rollout.engine, config.model.path, logs, progress=print) as pool,
            open_judge(config.judge, config.sandbox, task, print) as judge,
        ):
            for start in range(0, len(task.questions), AT_ONCE):
                some = task.questions[start : start + AT_ONCE]
                plain = await _groups(pool, prompts, config, judge, some, PLAIN)
                told = [q for group in plain for q in batches.teacher_questions([group], limit=1)]
                answers = await _groups(pool, prompts, config, judge, told, asked)
                taught = {group.question.id.partition("#")[0]: group for group in answers}
                for group in plain:
                    rows.append(_row(group, taught.get(group.question.id)))
                    print("  ".join(f"{value}" for value in rows[-1].values()), flush=True)
    return rows


async def _groups(
    pool: EnginePool, prompts: PromptBuilder, config: TrainConfig, judge: Judge,
    questions: Sequence[Question], attempts: int,
) -> list[Group]:  # fmt: skip
    sampling = replace(config.rollout.sampling, num_attempts=attempts)
    sampler = Sampler(pool, prompts, sampling, judge.run_tool)
    return await sampler.sample_groups(questions, judge, VERSION, 0)


def _row(plain: Group, taught: Group | None) -> dict[str, Any]:
    return {
        "question": plain.question.id,
        "student": _rate(plain),
        "teacher": None if taught is None else _rate(taught),
    }


def _rate(group: Group) -> float:
    return sum(verdict.success for verdict in group.verdicts) / max(len(group.verdicts), 1)


if __name__ == "__main__":
    main()
