"""What the data path costs: microseconds a response token, bytes a rank, and planning.

    python benchmarks/data_path.py [--lengths 1024 8192] [--out benchmarks/results/data_path.json]

A group of 8 attempts goes the way of a run: samples are made of attempts, written to the group's
file, planned on receipts, read back and handed from one process to another. Beside each length
stands what was done before in the same run: samples of Python tuples, pickled, broadcast as one
object and unpickled on every rank. Writing waits for the disk; teacher prompts are not in it, since
their cost is the tokenizer's.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from sdpo_megatron.nouns import (
    Attempt,
    Group,
    GroupLease,
    GroupReceipt,
    Question,
    SampleReceipt,
    TrainSample,
    Verdict,
    VersionSpan,
)

ATTEMPTS, PROMPT, TEACHER_PROMPT = 8, 512, 1536
REPETITIONS = 5


def stages(response: int) -> dict[str, float]:
    """Microseconds a response token at this length of responses, and bytes a response token."""
    from sdpo_megatron.actor.batches.table import SampleTable
    from sdpo_megatron.rollout.group_file import read_samples, write_group
    from sdpo_megatron.rollout.records import from_message, to_message

    group, maker, tokens = made_up_group(response), _maker(), ATTEMPTS * response
    samples = [_taught(sample) for sample in maker.make_group(group)[0]]
    planner = _planner(ranks=8, budget=2 * (response + TEACHER_PROMPT))
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(1_000_000))

        def write() -> GroupReceipt:
            lease = GroupLease(next(numbers))
            receipt = write_group(Path(folder), lease, "q", samples, attempts=ATTEMPTS)
            assert receipt is not None
            return receipt

        receipt = write()
        path, message = Path(folder) / receipt.file, to_message(samples)
        found = {
            "make_samples": _median(lambda: maker.make_group(group)),
            "write_group": _median(write),
            "plan": _median(lambda: planner.plan(SampleTable.of_groups([receipt]), 0)),
            "read_share": _median(lambda: read_samples(path, crc32=receipt.crc32)),
            "to_message": _median(lambda: to_message(samples)),
            "from_message": _median(lambda: from_message(message)),
            "broadcast": broadcast_seconds(message),
        }
        tuples = [_as_tuples(sample) for sample in samples]
        pickled = pickle.dumps(tuples)
        found |= {
            "before/pickle": _median(lambda: pickle.dumps(tuples)),
            "before/unpickle": _median(lambda: pickle.loads(pickled)),
        }
    micros = {f"{name}_us": seconds / tokens * 1e6 for name, seconds in found.items()}
    return micros | {
        "file_bytes": receipt.bytes / tokens,
        "array_bytes": sum(sample.nbytes for sample in samples) / tokens,
        "before/pickle_bytes": len(pickled) / tokens,
        "before/object_bytes": sum(map(_size_of_tuples, tuples)) / tokens,
    }


def bytes_per_rank(num_attempts: int = 1024, response: int = 64) -> dict[str, float]:
    """The most bytes of samples on one of 1, 2, 4, 8 and 64 data-parallel ranks, as a share of the
    whole batch's; 1 / ranks is ideal.
    """
    from sdpo_megatron.actor.batches.share import contents
    from sdpo_megatron.actor.batches.table import SampleTable

    groups, draw = [], random.Random(0)
    for number in range(num_attempts // ATTEMPTS):
        lengths = [draw.randint(response // 2, 2 * response) for _ in range(ATTEMPTS)]
        groups.append([_sample(length, f"q{number}", i) for i, length in enumerate(lengths)])
    receipts = [_receipt(f"q{n}", [s.receipt() for s in group]) for n, group in enumerate(groups)]
    whole = sum(sample.nbytes for group in groups for sample in group)
    found = {}
    for ranks in (1, 2, 4, 8, 64):
        plans = _planner(ranks, 4096).plan(SampleTable.of_groups(receipts), 0)
        most = max(
            sum(groups[number][place].nbytes for number, place in contents(plan)) for plan in plans
        )
        found[f"dp{ranks}"] = most / whole
    return found


def packing(num_attempts: int = 8192, budget: int = 34_816) -> dict[str, dict[str, float]]:
    """Seconds to plan so many attempts of log-normal length on receipts, table included, by
    data-parallel ranks; how far the fullest rank's work is above the mean, and the share of the
    micro-batches' tokens that is no padding.
    """
    from sdpo_megatron.actor.batches.share import contents
    from sdpo_megatron.actor.batches.table import SampleTable
    from sdpo_megatron.weights.flops import forward_flops

    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(8.3, 0.9, num_attempts), 16, 32_000).astype(int).tolist()
    receipts = [
        _receipt(f"q{at}", [_lengths(n, i) for i, n in enumerate(lengths[at : at + ATTEMPTS])])
        for at in range(0, num_attempts, ATTEMPTS)
    ]
    found = {}
    for ranks in (1, 8, 64, 128):
        planner = _planner(ranks, budget)
        plans = planner.plan(SampleTable.of_groups(receipts), 0)

        def work(place: tuple[int, int]) -> float:
            response = receipts[place[0]].samples[place[1]].response_tokens
            student = forward_flops(_spec(), PROMPT + response - 1, response)
            return 3 * student + forward_flops(_spec(), TEACHER_PROMPT + response - 1, response)

        def plan(planner: Any = planner) -> object:
            return planner.plan(SampleTable.of_groups(receipts), 0)

        loads = [sum(map(work, contents(of_rank))) for of_rank in plans]
        steps = [step for plan in plans for step in plan]
        padded = sum(step.lengths["teacher"] * len(step.micro_batches) for step in steps)
        tokens = sum(TEACHER_PROMPT + n - 1 for n in lengths)
        found[f"dp{ranks}"] = {
            "plan_s": _median(plan),
            "plan_cpu_s": _median(plan, time.process_time),
            "fullest_over_mean": max(loads) / statistics.mean(loads),
            "micro_batches": float(len(plans[0][0].micro_batches)),
            "tokens_over_padded": tokens / padded,
        }
    return found


def broadcast_seconds(message: bytes) -> float:
    """Median seconds until a second process has the bytes, as ranks of a model get them."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        answers = context.SimpleQueue()
        ranks = [
            context.Process(target=_broadcast, args=(rank, folder, message, answers))
            for rank in range(2)
        ]
        for rank in ranks:
            rank.start()
        seconds: float = answers.get()
        for rank in ranks:
            rank.join()
    return seconds


def _broadcast(rank: int, folder: str, message: bytes, answers: Any) -> None:
    import torch

    from sdpo_megatron.actor.agree import from_first

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    group = torch.distributed.group.WORLD
    assert group is not None
    held = torch.frombuffer(bytearray(message if rank == 0 else b"\0"), dtype=torch.uint8)

    def once() -> None:
        from_first(held, group)
        torch.distributed.barrier()

    seconds = _median(once)
    if rank:
        answers.put(seconds)
    torch.distributed.destroy_process_group()


def made_up_group(response: int) -> Group:
    """A judged group as the sampler gives it."""
    draw = random.Random(response)
    attempts = tuple(
        Attempt(
            question_id="q",
            index=index,
            prompt_ids=tuple(draw.randrange(50_000) for _ in range(PROMPT)),
            response_ids=tuple(draw.randrange(50_000) for _ in range(response)),
            log_probs=tuple(-draw.random() for _ in range(response)),
            loss_mask=(True,) * response,
            versions=(VersionSpan(0, response, 3),),
            finish_reason="stop",
            text="",
        )
        for index in range(ATTEMPTS)
    )
    verdicts = tuple(
        Verdict(reward=float(i % 2), success=bool(i % 2), format_ok=True, feedback="")
        for i in range(ATTEMPTS)
    )
    question = Question(id="q", task="t", messages=({"role": "user", "content": "?"},))
    return Group(question=question, attempts=attempts, verdicts=verdicts)


def _maker() -> Any:
    from sdpo_megatron.objectives import (
        GrpoWeighting,
        ObjectiveConfig,
        PolicyGradientConfig,
        build_objective,
    )
    from sdpo_megatron.rollout.batch import BatchMaker

    grpo = ObjectiveConfig(
        weighting=GrpoWeighting(), distillation=None, policy_gradient=PolicyGradientConfig()
    )
    return BatchMaker(None, build_objective(grpo))  # type: ignore[arg-type]  # it asks no teacher


def _planner(ranks: int, budget: int) -> Any:
    from sdpo_megatron.actor.batches.plan import StepPlanner
    from sdpo_megatron.actor.config import ActorConfig, BatchConfig

    config = ActorConfig(batch=BatchConfig(micro_batch_tokens=budget))
    return StepPlanner(config, _spec(), num_ranks=ranks)


def _spec() -> Any:
    """Llama 3.1 8B."""
    from sdpo_megatron.weights.spec import ModelSpec

    return ModelSpec(
        model_type="llama", num_layers=32, hidden=4096, ffn_hidden=14_336, num_heads=32,
        num_kv_heads=8, head_dim=128, vocab=128_256, max_position=131_072, norm_eps=1e-5,
        rope_theta=5e5,
    )  # fmt: skip


def _taught(sample: TrainSample) -> TrainSample:
    """The sample with a teacher prompt, as SDPO's have."""
    from dataclasses import replace

    return replace(sample, teacher_prompt_ids=np.arange(TEACHER_PROMPT, dtype=np.int32))


def _sample(response: int, question: str, index: int) -> TrainSample:
    return TrainSample(
        question_id=question, index=index, prompt_ids=np.zeros(PROMPT, np.int32),
        teacher_prompt_ids=np.zeros(TEACHER_PROMPT, np.int32),
        response_ids=np.zeros(response, np.int32), loss_mask=np.ones(response, np.bool_),
        log_probs=np.zeros(response, np.float32),
    )  # fmt: skip


def _lengths(response: int, index: int) -> SampleReceipt:
    return SampleReceipt(
        index=index, prompt_tokens=PROMPT, teacher_tokens=TEACHER_PROMPT, null_tokens=None,
        response_tokens=response, trained_tokens=response, distill_weight=1.0, policy_weight=0.0,
        reward=0.0, success=False,
    )  # fmt: skip


def _receipt(question: str, samples: list[SampleReceipt]) -> GroupReceipt:
    return GroupReceipt(
        lease=GroupLease(0), question_id=question, attempts=len(samples), dropped=0,
        samples=tuple(samples), oldest_version=0, file=f"{question}.bin", bytes=0, crc32=0,
    )  # fmt: skip


def _as_tuples(sample: TrainSample) -> dict[str, Any]:
    """What a sample was before: tuples of Python numbers."""
    return {
        name: tuple(value.tolist()) if isinstance(value, np.ndarray) else value
        for name, value in vars(sample).items()
    }


def _size_of_tuples(sample: dict[str, Any]) -> int:
    """Bytes of the tuples on a rank that has unpickled them; integers below 257 are shared."""
    return sum(
        8 * len(value) + sum(24 if isinstance(v, float) else 28 * (not -6 < v < 257) for v in value)
        for value in sample.values()
        if isinstance(value, tuple) and value and isinstance(value[0], int | float)
    )


def _median(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    seconds = []
    for _ in range(REPETITIONS + 1):
        start = clock()
        action()
        seconds.append(clock() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 8192, 32_768])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = {
        "cpus": len(os.sched_getaffinity(0)),
        "stages": {str(length): stages(length) for length in given.lengths},
        "bytes_per_rank": bytes_per_rank(),
        "packing_8192": packing(),
    }
    print(json.dumps(results, indent=2))
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
