"""Two rollout batches of every shipped experiment, shrunk to a tiny random model: its own task,
teacher prompts, weights, composition, optimiser steps and teacher. Attempts and verdicts are made
up: sampling and judging have their own tests.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron import config
from sdpo_megatron.nouns import Attempt, Group, Question, Verdict
from sdpo_megatron.tasks import load_task
from tests.distributed import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXPERIMENTS = sorted(
    path.stem for path in (config.CONF / "experiment").glob("*.yaml") if path.stem != "paper"
)
PACKAGED = config.CONF.parent / "tasks" / "data"
FILES = {
    "sciknoweval": PACKAGED / "sciknoweval" / "chemistry.jsonl",
    "toolalpaca": PACKAGED / "toolalpaca" / "own.jsonl",
    "livecodebench": PACKAGED / "livecodebench" / "own.jsonl",
    "gsm8k": PACKAGED / "gsm8k" / "train.jsonl",
}


def shrunk(name: str, model: str) -> config.TrainConfig:
    """The experiment with fewer, shorter attempts at packaged questions, on one rank in fp32."""
    paper = [] if name.startswith("quickstart") else ["task.path=/absent"]
    whole = config.load([f"experiment={name}", "model.path=unused", "validation.every=0", *paper])
    file = FILES.get(whole.task.name)
    questions = min(4, whole.batch.questions)
    per_step = whole.batch.questions_per_step and max(1, whole.batch.questions_per_step // 8)
    return config.load(
        [
            *(f"experiment={name}", f"model.path={model}", "validation.every=0"),
            *([f"task.path={file}"] if file else []),
            *("precision=fp32", "parallel=single"),
            *(f"batch.questions={questions}", f"batch.questions_per_step={per_step}"),
            *("batch.micro_batch_tokens=8192", "batch.logits_mib=1"),
            *(
                "rollout.sampling.max_new_tokens=64",
                "rollout.teacher_prompt.max_prompt_tokens=4096",
            ),
        ]
    )


def made_up_group(question: Question, prompt_ids: tuple[int, ...], num: int, seed: str) -> Group:
    """Attempts of random tokens; every third one succeeds, the others are told something."""
    draw = random.Random(seed)
    attempts, verdicts = [], []
    for index in range(num):
        ids = tuple(draw.randrange(3, 400) for _ in range(draw.randint(2, 12)))
        success = index % 3 == 1
        attempts.append(
            Attempt(
                question_id=question.id,
                index=index,
                prompt_ids=prompt_ids,
                response_ids=ids,
                log_probs=tuple(-draw.uniform(3.0, 9.0) for _ in ids),
                loss_mask=(True,) * len(ids),
                versions=(),
                finish_reason="stop",
                text=f"answer {draw.random():.3f}\n",
            )
        )
        verdicts.append(
            Verdict(
                reward=float(success),
                success=success,
                format_ok=True,
                feedback="" if success else f"test {index} failed",
            )
        )
    return Group(question=question, attempts=tuple(attempts), verdicts=tuple(verdicts))


def two_batches(_rank: int, _world: int, model: str, names: list[str]) -> dict[str, Any]:
    """By experiment, the metrics of two batches, and optimiser steps taken."""
    return {name: _two_batches(name, model) for name in names}


def _two_batches(name: str, model: str) -> Any:
    from megatron.core import parallel_state

    from sdpo_megatron.actor.actor import Actor
    from sdpo_megatron.actor.runtime import current_runtime
    from sdpo_megatron.loops.questions import questions_of_step
    from sdpo_megatron.objectives import build_objective
    from sdpo_megatron.rollout.batch import BatchMaker
    from sdpo_megatron.rollout.prompts import PromptBuilder
    from sdpo_megatron.rollout.teacher_prompts import TeacherPromptBuilder
    from sdpo_megatron.rollout.tokenizer import load_tokenizer
    from sdpo_megatron.weights.spec import ModelSpec

    made = shrunk(name, model)
    prompts = PromptBuilder(load_tokenizer(model))
    objective = build_objective(made.objective)
    maker = BatchMaker(TeacherPromptBuilder(prompts, made.rollout.teacher_prompt), objective)
    actor = Actor(made, ModelSpec.from_folder(model), model, current_runtime())
    questions, reports = load_task(made.task).questions, []
    for step in range(2):
        asked = questions_of_step(questions, step, per_step=made.batch.questions, seed=0)
        groups = [
            made_up_group(q, prompts.question_ids(q), 4, f"{name} {step} {q.id}") for q in asked
        ]
        made_groups = [maker.make_group(group) for group in groups]
        samples = [sample for of_group, _ in made_groups for sample in of_group]
        contexts = [context for _, of_group in made_groups for context in of_group]
        taught = sum(context is not None for context in contexts) / len(contexts)
        reports.append(actor.step(actor.share_of(samples)) | {"taught": taught})
    parallel_state.destroy_model_parallel()
    return reports, actor.optimizer_steps


@pytest.fixture(scope="module")
def trained(tiny_llama: Path) -> dict[str, Any]:
    return run_ranks(two_batches, 1, str(tiny_llama), EXPERIMENTS)[0]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_two_batches_train(name: str, trained: dict[str, Any]) -> None:
    made = shrunk(name, "unused")
    (first, second), num_steps = trained[name]
    batch, warmup = made.batch, made.optimizer.warmup_steps
    per_batch = batch.questions // (batch.questions_per_step or batch.questions)
    assert num_steps == 2 * per_batch
    for number, report in enumerate((first, second)):
        assert math.isfinite(report["train/loss"])
        assert report["train/grad_norm"] > 0
        rate = made.optimizer.lr * (number / warmup if number < warmup else 1.0)
        assert report["train/learning_rate"] == pytest.approx(rate)
    assert (first["taught"] > 0) == (made.objective.distillation is not None)
    if made.objective.distillation is not None:
        assert first["teacher/kl_mean"] > 0
        # After a warm-up batch at rate 0 the teacher is where the student is.
        moved = second.get(
            "teacher/ema_distance", second["train/learning_rate"]
        )  # a frozen one does not
        assert (moved > 0) == (second["train/learning_rate"] > 0)
