"""``sdpo evaluate``: ask a model our tasks' questions, judge, and say how good it is; no training.

The questions are those of `task`, sampled as `validation` says (attempts, temperature, nucleus).
Each judged question is on disk at once; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sdpo_megatron.config import TrainConfig, load
from sdpo_megatron.config.saved import yaml_groups
from sdpo_megatron.errors import ConfigError, ModelFileError
from sdpo_megatron.evaluation.harness import check_harness, harness_command, run_harness
from sdpo_megatron.evaluation.records import Evaluation, JudgedQuestion
from sdpo_megatron.evaluation.summary import changes, summaries
from sdpo_megatron.evaluation.tables import changes_table, summary_table
from sdpo_megatron.exit_codes import DONE
from sdpo_megatron.files import write_whole
from sdpo_megatron.nouns import PolicyVersion, Question
from sdpo_megatron.observability.display import Display, Phase
from sdpo_megatron.rollout.config import SamplingConfig
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.validation import validation_sampling
from sdpo_megatron.tasks import Task, load_task
from serving.pool import EnginePool

_AT_ONCE = 256
"""Attempts that are asked for before the next questions are: what a kill loses at most."""
_EPILOG = """\
examples:
  sdpo evaluate model=local model.path=/models/Qwen3-8B task=gsm8k task.path=test.jsonl
  sdpo evaluate experiment=quickstart task.ids=[]        all of HumanEval, 16 attempts each
  sdpo evaluate ... --task humaneval --task gsm8k=test.jsonl validation.num_attempts=4
  sdpo evaluate ... --output after/ --against before/    what a training gained, and forgot
  sdpo evaluate ... --benchmarks ifeval,mmlu_pro         by lm-evaluation-harness, too

A run's weights are a model folder: model.path=runs/NAME/weights/v000008, or what sdpo export wrote.
"""


@dataclass(frozen=True)
class _Job:
    """One task, and the configuration that it is asked under."""

    config: TrainConfig
    task: Task


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
        session = _Session(evaluation, [] if parsed.benchmarks_only else jobs, config, display)
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


def _jobs(overrides: Sequence[str], tasks: Sequence[str]) -> list[_Job]:
    if not tasks:
        return [_job(load(overrides))]
    found = []
    for named in tasks:
        name, _, path = named.partition("=")
        group = f"task={name}" if name in yaml_groups()["task"] else f"task.name={name}"
        chosen = [group, "task.ids=[]", *([f"task.path={path}"] if path else [])]
        found.append(_job(load([*chosen, *overrides])))
    return found


def _job(config: TrainConfig) -> _Job:
    return _Job(config, load_task(replace(config.task, hidden_tests=True)))


def _check_model(config: TrainConfig) -> None:
    """Before anything is written: the folder of a model that engines can serve.

    Raises:
        ModelFileError: It is not.
    """
    from sdpo_megatron.loops.prepare import prepare_model
    from sdpo_megatron.weights.spec import read_config
    from serving.model_fields import engine_problems

    prepare_model(config)
    model = Path(config.model.path)
    if problems := engine_problems(read_config(model)):
        raise ModelFileError(f"{model}/config.json: " + "; ".join(problems))


def _asked(jobs: Sequence[_Job]) -> dict[str, Any]:
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


class _Session:
    """Engines for the length of one evaluation."""

    def __init__(
        self, evaluation: Evaluation, jobs: Sequence[_Job], config: TrainConfig, display: Display
    ) -> None:
        self._evaluation, self._jobs, self._config = evaluation, jobs, config
        self._display = display

    async def run(self, benchmarks: Sequence[str], harness_args: str) -> None:
        """Ask what is not judged yet, then the benchmarks."""
        done = {(q.task, q.question) for q in self._evaluation.questions()}
        left = [
            (job, [q for q in job.task.questions if (job.task.name, q.id) not in done])
            for job in self._jobs
        ]
        left = [(job, questions) for job, questions in left if questions]
        if not left and not benchmarks:
            return
        async with self._engines() as pool:
            version = await _served(pool)
            for job, questions in left:
                await self._ask(pool, version, job, questions)
            if benchmarks:
                folder = self._evaluation.folder
                model = Path(self._config.model.path).name
                concurrency = self._config.rollout.sampling.concurrency
                url = pool.ready[0].client.url
                command = harness_command(
                    url, model, benchmarks, folder / "harness", concurrency, harness_args
                )
                say = self._display.message
                await asyncio.to_thread(run_harness, command, folder / "harness.log", say)

    @asynccontextmanager
    async def _engines(self) -> AsyncIterator[EnginePool]:
        from sdpo_megatron.actor.runtime import visible_gpus
        from sdpo_megatron.loops.placement import assign

        config = self._config
        engine = assign(config, visible_gpus(), 0).engine_config(config.rollout.engine)
        logs = self._evaluation.folder / "logs"
        logs.mkdir(exist_ok=True)
        say = self._display.message
        pool = EnginePool(engine, Path(config.model.path), logs, seed=config.run.seed, progress=say)
        try:
            with self._display.phase("waiting for the engine"):
                await asyncio.to_thread(pool.start)
                await pool.find()
            yield pool
        finally:
            await pool.disconnect()
            pool.close()

    async def _ask(
        self, pool: EnginePool, version: PolicyVersion, job: _Job, questions: Sequence[Question]
    ) -> None:
        from sdpo_megatron.judging.judge import open_judge
        from sdpo_megatron.rollout.overlong import within_limits
        from sdpo_megatron.rollout.sampler import Sampler
        from sdpo_megatron.rollout.tokenizer import load_tokenizer

        config = job.config
        sampling: SamplingConfig = validation_sampling(config.validation, config.rollout.sampling)
        prompts = PromptBuilder(load_tokenizer(config.model.path), thinking=sampling.thinking)
        asked = within_limits(questions, prompts, sampling.max_prompt_tokens, None)
        if len(asked) < len(questions):
            self._display.warn(
                f"{len(questions) - len(asked)} questions of {job.task.name} are left out: their "
                f"prompts are longer than {sampling.max_prompt_tokens} tokens"
            )
        sampler = Sampler(pool, prompts, sampling)
        at_once = max(1, _AT_ONCE // sampling.num_attempts)
        total = len(asked) * sampling.num_attempts
        warn = self._display.warn
        async with open_judge(config.judge, config.sandbox, job.task, warn) as judge:
            with self._display.phase(f"asking {job.task.name}", total=total) as phase:
                for start in range(0, len(asked), at_once):
                    some = asked[start : start + at_once]
                    groups = await sampler.sample_groups(
                        some, judge, version, 0, lambda *_: _advance(phase)
                    )
                    hard = job.task.difficulties
                    judged = [
                        JudgedQuestion.of(job.task.name, group, hard.get(group.question.id, ""))
                        for group in groups
                    ]
                    self._evaluation.append(judged)
                    self._tell(job.task.name, start + len(some), len(asked), judged)

    def _tell(self, task: str, done: int, of: int, judged: Sequence[JudgedQuestion]) -> None:
        """A line for those who have no terminal."""
        successes = [attempt.success for question in judged for attempt in question.attempts]
        rate = sum(successes) / len(successes) if successes else 0.0
        self._display.message(
            f"{task}: {done} of {of} questions; success {rate:.3f} on the last {len(judged)}"
        )


async def _served(pool: EnginePool) -> PolicyVersion:
    """What the engines serve: 0 where they were just started here.

    Raises:
        ConfigError: Engines given by URL serve different weights.
    """
    versions = {engine.name: await engine.client.version() for engine in pool.ready}
    if len(set(versions.values())) > 1:
        raise ConfigError(
            f"rollout.engine.urls: the engines serve different policy versions ({versions}); "
            "which model would be evaluated?"
        )
    return PolicyVersion(next(iter(versions.values())))


def _advance(phase: Phase) -> None:
    phase.advance()
