"""Rollout throughput against what the same engine gives a bare load generator.

    python -m benchmarks.rollout --model MODEL_DIR [--concurrency 32] [--new-tokens 64] [--rounds 3]

Both send the same prompts with the same limit to one engine, taking turns, so that a busy machine
disturbs both alike. Responses always have full length (end-of-turn tokens are sampled but do not
end them), so both sides make the same tokens. Writes benchmarks/results/rollout.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sdpo_megatron.nouns import PolicyVersion, Question, Verdict
from sdpo_megatron.rollout.config import SamplingConfig
from sdpo_megatron.rollout.prompts import PromptBuilder
from sdpo_megatron.rollout.sampler import Sampler
from sdpo_megatron.rollout.tokenizer import load_tokenizer
from serving.completion import Completion, SamplingParams
from serving.config import EngineConfig
from serving.load_generator import Throughput, bare_load
from serving.pool import EnginePool

RESULT = Path(__file__).parent / "results" / "rollout.json"
NUM_ATTEMPTS = 8
TASKS = ("adds two numbers", "reverses a string", "counts vowels", "finds the largest element")


class FullLengthPool(EnginePool):
    """Responses go on after the end-of-turn token: every run makes the same number of tokens."""

    async def generate(self, prompt_ids: Sequence[int], sampling: SamplingParams) -> Completion:
        return await super().generate(prompt_ids, _FullLength(**vars(sampling)))


class _FullLength(SamplingParams):
    def payload(self) -> dict[str, Any]:
        return {**super().payload(), "ignore_eos": True}


async def measure(
    pool: EnginePool, prompts: PromptBuilder, *, concurrency: int, new_tokens: int, rounds: int
) -> list[tuple[Throughput, Throughput]]:
    """(bare load generator, sampler) for each round; each answers 2 x `concurrency` prompts. A
    first round warms up."""
    sampling = SamplingConfig(
        num_attempts=NUM_ATTEMPTS, max_new_tokens=new_tokens, concurrency=concurrency
    )
    sampler = Sampler(pool, prompts, sampling)
    results = []
    for round_index in range(rounds + 1):
        number = max(2 * concurrency // NUM_ATTEMPTS, 1) if round_index else 1
        questions = _questions(number, round_index)
        ids = [
            prompts.question_ids(question) for question in questions for _ in range(NUM_ATTEMPTS)
        ]
        bare = await bare_load(
            pool.engines[0].client.url, ids, concurrency=concurrency, max_new_tokens=new_tokens
        )
        started = time.perf_counter()
        groups = await sampler.sample_groups(questions, _accept, PolicyVersion(0), round_index)
        seconds = time.perf_counter() - started
        num_tokens = sum(len(a.response_ids) for group in groups for a in group.attempts)
        if round_index:
            results.append((bare, Throughput(num_tokens, seconds)))
    return results


def run(
    model_dir: str | Path,
    *,
    concurrency: int = 32,
    new_tokens: int = 64,
    rounds: int = 3,
    config: EngineConfig | None = None,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Start one engine, measure, stop it; the figures as JSON-able data (see `RESULT`)."""
    config = config or EngineConfig(max_total_tokens=16384)
    prompts = PromptBuilder(load_tokenizer(model_dir))

    async def main(pool: EnginePool) -> list[tuple[Throughput, Throughput]]:
        async with pool:
            return await measure(
                pool, prompts, concurrency=concurrency, new_tokens=new_tokens, rounds=rounds
            )

    with tempfile.TemporaryDirectory() as logs:
        pairs = asyncio.run(main(FullLengthPool(config, model_dir, logs, progress=progress)))
    ratios = [ours.tokens_per_s / bare.tokens_per_s for bare, ours in pairs]
    return {
        "what": "tokens/s of Sampler against a bare load generator, same engine, same prompts",
        "model": Path(model_dir).name,
        "dtype": config.dtype,
        "threads": config.threads,
        "concurrency": concurrency,
        "new_tokens": new_tokens,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg(),
        "bare_tokens_per_s": [round(bare.tokens_per_s, 1) for bare, _ in pairs],
        "sampler_tokens_per_s": [round(ours.tokens_per_s, 1) for _, ours in pairs],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "median_ratio": round(statistics.median(ratios), 3),
    }


def _questions(number: int, round_index: int) -> list[Question]:
    """Different in every round, so that no prefix is cached from the one before."""
    return [
        Question(
            id=f"{round_index}/{index}",
            task="benchmark",
            messages=(
                {
                    "role": "user",
                    "content": f"{round_index}.{index}: write a Python function that "
                    f"{TASKS[index % len(TASKS)]}. Reply with only the code.",
                },
            ),
        )
        for index in range(number)
    ]


async def _accept(question: Question, text: str) -> Verdict:
    return Verdict(reward=1.0, success=True, format_ok=True, feedback="")


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="HF checkpoint folder")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    result = run(
        args.model, concurrency=args.concurrency, new_tokens=args.new_tokens, rounds=args.rounds
    )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
