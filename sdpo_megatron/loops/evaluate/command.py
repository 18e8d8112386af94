"""``sdpo evaluate``: ask a model our tasks' questions, judge, and say how good it is; no training.

The questions are those of `task`, sampled as `validation` says (attempts, temperature, nucleus).
Each judged question is on disk at once; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sdpo_megatron.config import TrainConfig, load
from sdpo_megatron.config.composing import yaml_groups
from sdpo_megatron.errors import ConfigError, ModelFileError
from sdpo_megatron.evaluation.harness import check_harness
from sdpo_megatron.evaluation.records import Evaluation
from sdpo_megatron.evaluation.summary import changes, summaries
from sdpo_megatron.evaluation.tables import changes_table, summary_table
from sdpo_megatron.exit_codes import DONE
from sdpo_megatron.files import write_whole
from sdpo_megatron.loops.evaluate.session import Job, Session
from sdpo_megatron.observability.display import Display
from sdpo_megatron.rollout.validation import validation_sampling
from sdpo_megatron.tasks import load_task

_EPILOG = """\
examples:
  sdpo evaluate model=local model.path=/models/Qwen3-8B task=gsm8k task.path=test.jsonl
  sdpo evaluate experiment=quickstart task.ids=[]        all of HumanEval, 16 attempts each
  sdpo evaluate ... --task humaneval --task gsm8k=test.jsonl validation.num_attempts=4
  sdpo evaluate ... --output after/ --against before/    what a training gained, and forgot
  sdpo evaluate ... --benchmarks ifeval,mmlu_pro         by lm-evaluation-harness, too

A run's weights are a model folder: model.path=runs/NAME/weights/v000008, or what sdpo export wrote.
"""


def main(arguments: Sequence[str]) -> int:
    """Evaluate, print the tables and write them; returns the exit code.

    Raises:
        SdpoError: What a user can mend.
    """
    parser = argparse.ArgumentParser(
        prog="sdpo evaluate",
        description="How good a model is: avg@n, pass@k, form and length by task and difficulty, "
        "with 95 % intervals over questions. The same command goes on with one that was stopped.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="key=value, as in sdpo train")
    parser.add_argument(
        "--task", action="append", default=[], metavar="NAME[=PATH]",
        help="ask these tasks, all their questions, instead of the configuration's",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="evaluations/NAME-DATE-TIME")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="an earlier evaluation")
    parser.add_argument("--benchmarks", default="", metavar="NAMES", help="of lm_eval, by commas")
    parser.add_argument("--harness-args", default="", metavar="ARGS", help="for lm_eval, as typed")
    parser.add_argument("--benchmarks-only", action="store_true", help="ask no task of ours")
    parsed = parser.parse_intermixed_args(list(arguments))
    benchmarks = [name.strip() for name in parsed.benchmarks.split(",") if name.strip()]
    if benchmarks:
        check_harness()
    elif parsed.benchmarks_only:
        raise ConfigError("--benchmarks-only: no --benchmarks are named")
    jobs = _jobs(parsed.overrides, parsed.task)
    config = jobs[0].config
    before = Evaluation(parsed.against) if parsed.against else None
    if before:
        before.asked()  # a wrong folder is told before anything starts
    _check_model(config)
    name = f"evaluations/{config.run.name}-{datetime.now():%Y%m%d-%H%M%S}"
    evaluation = Evaluation(parsed.output or Path(name))
    evaluation.begin(_asked(jobs))
    with Display(0) as display:
        display.message(f"evaluation {evaluation.folder}; the same --output goes on with it")
        session = Session(evaluation, [] if parsed.benchmarks_only else jobs, config, display)
        asyncio.run(session.run(benchmarks, parsed.harness_args))
    if not parsed.benchmarks_only:
        print(write_tables(evaluation, before))
    return DONE


def write_tables(evaluation: Evaluation, before: Evaluation | None) -> str:
    """Write results.json and results.md; returns the text."""
    questions = evaluation.questions()
    found = summaries(questions)
    plain: dict[str, Any] = {"asked": evaluation.asked(), "tasks": [asdict(one) for one in found]}
    text = summary_table(found)
    if before:
        what = changes(before.questions(), questions)
        plain |= {"against": str(before.folder), "changes": [asdict(one) for one in what]}
        text += f"\nAgainst {before.folder}:\n\n{changes_table(what)}"
    write_whole(evaluation.folder / "results.json", json.dumps(_known(plain), indent=2) + "\n")
    write_whole(evaluation.folder / "results.md", text)
    return text


def _known(value: Any) -> Any:
    """NaN, which JSON has not, is null."""
    if isinstance(value, dict):
        return {key: _known(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_known(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value


def _jobs(overrides: Sequence[str], tasks: Sequence[str]) -> list[Job]:
    if not tasks:
        return [_job(load(overrides))]
    found = []
    for named in tasks:
        name, _, path = named.partition("=")
        group = f"task={name}" if name in yaml_groups()["task"] else f"task.name={name}"
        chosen = [group, "task.ids=[]", *([f"task.path={path}"] if path else [])]
        found.append(_job(load([*chosen, *overrides])))
    return found


def _job(config: TrainConfig) -> Job:
    return Job(config, load_task(replace(config.task, hidden_tests=True)))


def _check_model(config: TrainConfig) -> None:
    """Before anything is written: the folder of a model that engines can serve.

    Raises:
        ModelFileError: It is not.
    """
    from sdpo_megatron.loops.launching.prepare import prepare_model
    from sdpo_megatron.weights.spec import read_config
    from serving.model_fields import engine_problems

    prepare_model(config)
    model = Path(config.model.path)
    if problems := engine_problems(read_config(model)):
        raise ModelFileError(f"{model}/config.json: " + "; ".join(problems))


def _asked(jobs: Sequence[Job]) -> dict[str, Any]:
    """What the numbers depend on."""
    config = jobs[0].config
    sampling = validation_sampling(config.validation, config.rollout.sampling)
    names = ("num_attempts", "temperature", "top_p", "max_new_tokens", "seed", "thinking")
    return {
        "model": str(Path(config.model.path)),
        "tasks": [
            {
                "name": job.task.name,
                "path": str(job.task.path),
                "questions": len(job.task.questions),
            }
            for job in jobs
        ],
        "sampling": {name: getattr(sampling, name) for name in names},
    }
