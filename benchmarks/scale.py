"""What docs/scale.md says, measured: Python's share, checkpoints by rank, the cost model's word.

    python benchmarks/scale.py [stages] [checkpoints] [plan] [tables] [--quick]

stages       microseconds a response token of what a rollout worker does in Python: reading the
             engines' answers and text, and teacher's prompts, at 1k, 8k and 32k tokens (the way of
             the samples from there to a rank is benchmarks/data_path.py)
checkpoints  bytes and seconds of a rank at 1, 2 and 4 data-parallel ranks, written and read, by
             the kernel's count (/proc/self/io); and what training waits for when it is written
             beside it
plan         `sdpo plan` against a real quickstart: speeds from a run of three steps and another
             seed, then all phases of a run of six
tables       what saturates first from one machine to ten thousand GPUs, by `sdpo plan`'s model

Without words, all four. Writes benchmarks/results/scale.json, part by part.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "smollm2-135m-instruct"
RESULTS = ROOT / "benchmarks" / "results" / "scale.json"
LENGTHS = (1024, 8192, 32768)
PROMPT, TEACHER_PROMPT = 150, 230  # tokens of the quickstart's prompts, on average
REPETITIONS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="which; all by default")
    parser.add_argument("--quick", action="store_true", help="small models, short runs")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"{', '.join(unknown)}: parts are {', '.join(PARTS)}")
    if arguments.rank:
        print(json.dumps(_rank(arguments.rank)), flush=True)
        os._exit(0)
    from sdpo_megatron.weights.smollm2 import prepare

    prepare(MODEL)
    for part in arguments.parts or PARTS:
        print(f"measuring: {part}", flush=True)
        found = PARTS[part](arguments.quick)
        print(json.dumps(found, indent=1))
        kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        kept |= {"machine": {"cores": os.cpu_count()}, part: found}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


# --- Python of a rollout worker -------------------------------------------------------------------


def stages(quick: bool) -> dict[str, dict[str, float]]:
    """Microseconds a response token, by length of the response."""
    from sdpo_megatron.rollout.prompts import PromptBuilder
    from sdpo_megatron.rollout.tokenizer import decode_response, load_tokenizer
    from serving.completion import parse_completion

    tokenizer = load_tokenizer(str(MODEL))
    prompts = PromptBuilder(tokenizer)
    found = {}
    for length in LENGTHS[:1] if quick else LENGTHS:
        ids, text = _written(tokenizer, length)
        rows = [[-random.random(), token, None] for token in ids]
        answer = {
            "output_ids": ids,
            "meta_info": {
                "output_token_logprobs": rows,
                "finish_reason": {"type": "length", "length": length},
                "weight_version": "3",
                "completion_tokens": length,
            },
        }
        body = json.dumps(answer)
        one = {
            "parse_json": _median(lambda body=body: json.loads(body)),
            "parse_completion": _median(lambda a=answer: parse_completion(a, "engine")),
            "decode_text": _median(lambda i=ids: decode_response(tokenizer, i[:64], i)),
            "teacher_prompt": _median(lambda t=text: _teacher_prompt(prompts, t)),
        }
        found[str(length)] = {name: seconds / length * 1e6 for name, seconds in one.items()} | {
            "all": sum(one.values()) / length * 1e6
        }
    return found


def _written(tokenizer: Any, length: int) -> tuple[list[int], str]:
    """So many tokens of program text, and the text."""
    source = Path(__file__).read_text()
    ids: list[int] = tokenizer(source * (1 + length // 2000))["input_ids"][:length]
    return ids, tokenizer.decode(ids)


def _teacher_prompt(prompts: Any, demonstration: str) -> None:
    """A teacher's prompt that holds a sibling's answer of this length."""
    from sdpo_megatron.nouns import Question

    content = f"Solve it.\nCorrect solution:\n\n{demonstration}\n\nSolve the original question."
    prompts.question_ids(
        Question(id="q", messages=({"role": "user", "content": content},), task="humaneval")
    )


# --- checkpoints ----------------------------------------------------------------------------------


def checkpoints(quick: bool) -> dict[str, Any]:
    """By data-parallel ranks: bytes of the fullest rank over state / ranks, and seconds."""
    found = {}
    for ranks in (1, 2) if quick else (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            told = _ranks(ranks, folder)
        share = told[0]["share"]
        found[f"dp{ranks}"] = {
            "state_mb": share * ranks / 1e6,
            "written_mb": max(one["written"] for one in told) / 1e6,
            "written_over_share": max(one["written"] for one in told) / share,
            "read_mb": max(one["read"] for one in told) / 1e6,
            "read_over_share": max(one["read"] for one in told) / share,
            "save_s": max(one["save_s"] for one in told),
            "load_s": max(one["load_s"] for one in told),
            "begin_s": max(one["begin_s"] for one in told),
            "begin_over_save": max(one["begin_s"] for one in told)
            / max(one["save_s"] for one in told),
        }
    return found


def _ranks(world: int, folder: str) -> list[dict[str, float]]:
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29641"}
    command = [sys.executable, __file__, "--rank", folder]
    ranks = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | shared
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(world)
    ]
    outputs = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit("a rank failed; its message is above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def _rank(folder: str) -> dict[str, float]:
    """Save in the foreground, load, and begin a save in the background."""
    from sdpo_megatron.actor.runtime import start_runtime

    runtime = start_runtime("cpu")
    runtime.init_process_group()
    from sdpo_megatron.actor.actor import Actor
    from sdpo_megatron.actor.config import ActorConfig
    from sdpo_megatron.weights.spec import ModelSpec

    actor = Actor(ActorConfig(), ModelSpec.from_folder(MODEL), MODEL, runtime)
    root = Path(folder)
    start, before = time.monotonic(), _io()
    actor.save(root, 1, {}, keep=1)
    saved, after_save = time.monotonic(), _io()
    actor.load_newest(root)
    loaded, after_load = time.monotonic(), _io()
    actor.begin_save(root, 2, {}, keep=1)
    begun = time.monotonic()
    actor.finish_save(wait=True)
    return {
        "share": 16.0 * actor.weights.numel(),
        "written": after_save["wchar"] - before["wchar"],
        "read": after_load["rchar"] - after_save["rchar"],
        "save_s": saved - start,
        "load_s": loaded - saved,
        "begin_s": begun - loaded,
    }


def _io() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


# --- the cost model against a run -----------------------------------------------------------------


def plan(quick: bool) -> dict[str, Any]:
    """Predicted and measured seconds of a quickstart, by phase."""
    from sdpo_megatron.planning.calibration import Measured, calibrated, compared

    with tempfile.TemporaryDirectory() as folder:
        short = _train(Path(folder) / "short", steps=2 if quick else 3, seed=1)
        run = _train(Path(folder) / "run", steps=3 if quick else 6, seed=0)
        prompts = {"prompt": float(PROMPT), "teacher_prompt": float(TEACHER_PROMPT)}
        speeds = calibrated(Measured.read(short, **prompts), "a shorter run before")
        rows = compared(Measured.read(run, **prompts), speeds)
    return {
        name: {"predicted_s": predicted, "measured_s": seen, "ratio": predicted / seen}
        for name, predicted, seen in rows
    }


def _train(folder: Path, *, steps: int, seed: int) -> Path:
    subprocess.run(
        [
            *(sys.executable, "-m", "sdpo_megatron.cli", "train", "experiment=quickstart"),
            *(f"run.steps={steps}", "run.checkpoint_every=0", "run.metrics_port=0"),
            *(f"run.folder={folder}", f"model.path={MODEL}", f"run.seed={seed}"),
        ],
        check=True,
        stdout=sys.stderr,
        cwd=ROOT,
    )
    return folder


# --- what gives out first -------------------------------------------------------------------------

SCALES = (
    ("qwen3-8b", 1, 32, 0),
    ("qwen3-8b", 8, 128, 0),
    ("qwen3-8b", 8, 128, 2),
    ("qwen3-32b", 64, 512, 0),
    ("qwen3-32b", 64, 512, 2),
    ("qwen3-32b", 625, 1024, 2),
    ("qwen3-30b-a3b", 625, 1024, 2),
)
"""(model, machines of the trainer and again of engines, questions a batch, max_staleness)"""


def tables(quick: bool) -> list[dict[str, Any]]:
    """Science questions, responses of 3000 tokens on average and 8192 at most."""
    from sdpo_megatron.planning.loads import loads, synchronous_s
    from sdpo_megatron.planning.request import Request
    from sdpo_megatron.planning.simulation.run import Simulation

    rows = []
    for shape, nodes, questions, staleness in SCALES[:3] if quick else SCALES:
        for transport in ("disk", "distributed"):
            request = Request.read(
                [
                    *("experiment=science", f"shape={shape}", f"batch.questions={questions}"),
                    *(f"nodes={nodes}", f"engine_nodes={nodes}", f"transport={transport}"),
                    *("prompt=300", "teacher_prompt=2500", "response=3000", "spread=0.8"),
                    "rollout.engine.tp=" + ("2" if shape == "qwen3-32b" else "1"),
                ]
            )
            model, sheet = request.plan()
            began = time.monotonic()
            outcome = Simulation(model, max_staleness=staleness, steps=6).run()
            busiest = loads(model, staleness)
            rows.append(
                {
                    "model": shape,
                    "gpus": 16 * nodes,
                    "attempts": model.work.attempts,
                    "max_staleness": staleness,
                    "transport": transport,
                    "rank_gib": sheet.total / 2**30 if sheet else 0.0,
                    "synchronous_s": synchronous_s(model),
                    "simulated_s": outcome.step_s,
                    "train_s": model.train_s(),
                    "publish_s": model.publish().seconds,
                    "checkpoint_s": model.checkpoint_write_s(),
                    "python_s": model.python_s(),
                    "first": busiest[0].name,
                    "second": busiest[1].name,
                    "trainer_busy": outcome.trainer_busy,
                    "engines_busy": outcome.engines_busy,
                    "events": outcome.events,
                    "simulation_s": time.monotonic() - began,
                }
            )
    return rows


# --- common ---------------------------------------------------------------------------------------


def _median(action: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


PARTS: dict[str, Callable[[bool], Any]] = {
    "stages": stages,
    "checkpoints": checkpoints,
    "plan": plan,
    "tables": tables,
}

if __name__ == "__main__":
    main()
