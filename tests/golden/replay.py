"""Five steps of training on recorded attempts: a tiny random model, no engine.

attempts.json    what that model answered to made-up questions at temperature 1, with its
                 log-probabilities; a batch a step
sdpo.json, grpo.json    loss and gradient norm of each step

`make golden` writes the losses anew. A commit that changes them says so, and why, in CHANGELOG.md.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from sdpo_megatron.nouns import TrainSample
from tests.actor.worlds import VOCAB, make_actor, small_objective, tiny_model
from tests.distributed import run_ranks

FOLDER = Path(__file__).parent
ATTEMPTS = FOLDER / "attempts.json"
STEPS, QUESTIONS, NUM_ATTEMPTS = 5, 4, 4
OBJECTIVES = ("sdpo", "grpo")
Row = dict[str, float]


def golden_file(name: str) -> Path:
    """Where the losses of an objective are."""
    return FOLDER / f"{name}.json"


def replay(rank: int, world: int, folder: str, name: str) -> list[Row]:
    """Train on the recorded batches; loss and gradient norm of each step."""
    from megatron.core import parallel_state

    from sdpo_megatron.actor.config import BatchConfig, EmaTeacher, OptimizerConfig
    from sdpo_megatron.objectives import GrpoWeighting, ObjectiveConfig, PolicyGradientConfig

    grpo = ObjectiveConfig(
        weighting=GrpoWeighting(),
        distillation=None,
        policy_gradient=PolicyGradientConfig(),
    )
    actor = make_actor(
        folder,
        objective=grpo if name == "grpo" else small_objective(),
        teacher=EmaTeacher(rate=0.1),
        batch=BatchConfig(questions=QUESTIONS, micro_batch_tokens=96, logits_mib=0.012),
        # A large eps: with 1e-8 an element whose gradient is all rounding would move like any
        # other, and the last bits of one step would show in the third digit of a later one.
        optimizer=OptimizerConfig(lr=3e-3, eps=1e-3, warmup_steps=2),
    )
    steps = [actor.step(actor.share_of(samples)) for samples in recorded()]
    parallel_state.destroy_model_parallel()
    return [{key: step[f"train/{key}"] for key in ("loss", "grad_norm")} for step in steps]


def recorded() -> list[list[TrainSample]]:
    """The batches of attempts.json."""
    return [
        [TrainSample(**sample) for sample in batch] for batch in json.loads(ATTEMPTS.read_text())
    ]


def record(folder: str) -> list[list[dict[str, Any]]]:
    """Ask the model; an answer is right when its first token is even, and a right one is shown to
    the teacher of its siblings.
    """
    draw = random.Random(0)
    return [
        [
            sample
            for question in range(QUESTIONS)
            for sample in _ask(folder, f"s{step}q{question}", draw)
        ]
        for step in range(STEPS)
    ]


def _ask(folder: str, name: str, draw: random.Random) -> list[dict[str, Any]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    prompt = [draw.randrange(3, VOCAB) for _ in range(draw.randint(3, 8))]
    answers: list[tuple[list[int], list[float]]] = []
    for _ in range(NUM_ATTEMPTS):
        ids, log_probs = list(prompt), []
        for _ in range(draw.randint(2, 9)):
            with torch.no_grad():
                choice = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], -1)
            token = int(torch.multinomial(choice.exp(), 1, generator=generator))
            ids.append(token)
            log_probs.append(round(float(choice[token]), 6))
        answers.append((ids[len(prompt) :], log_probs))
    rewards = [float(response[0] % 2 == 0) for response, _ in answers]
    right = [response for (response, _), reward in zip(answers, rewards, strict=True) if reward]
    mean = sum(rewards) / len(rewards)
    samples: list[dict[str, Any]] = []
    for index, (response, log_probs) in enumerate(answers):
        shown = next((other for other in right if other != response), None)
        samples.append(
            {
                "question_id": name,
                "index": index,
                "prompt_ids": prompt,
                "response_ids": response,
                "loss_mask": [True] * len(response),
                "log_probs": log_probs,
                "teacher_prompt_ids": None if shown is None else prompt + shown,
                "advantage": rewards[index] - mean,
                "distill_weight": 0.0 if shown is None else 1.0,
                "policy_weight": 1.0,
                "success": bool(rewards[index]),
            }
        )
    return samples


def main(arguments: list[str]) -> None:
    """Write the losses; with the word `attempts` the attempts as well."""
    with tempfile.TemporaryDirectory() as root:
        folder = str(tiny_model(Path(root) / "model"))
        if "attempts" in arguments:
            batches = record(folder)
            lines = ",\n".join(json.dumps(batch) for batch in batches)
            ATTEMPTS.write_text(f"[\n{lines}\n]\n")
        for name in OBJECTIVES:
            rows = run_ranks(replay, 1, folder, name)[0]
            lines = ",\n".join("  " + json.dumps(row) for row in rows)
            golden_file(name).write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1:])
