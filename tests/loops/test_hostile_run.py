"""A training run in which every step holds a hostile attempt of each kind ends, number for number,
as it would with a plainly wrong program in its place.

Everything is real but the words: a random model writes no attack, so what its tokens decode to is
replaced in the trainer, before the judge sees it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loops import runs
from tests.verifiers.code.hostile import FUNCTION_ATTACKS, FUNCTION_ITEM

pytestmark = [pytest.mark.exhaustive, pytest.mark.slow, pytest.mark.timeout(1800)]

RIGHT, WRONG = "def total(xs): return sum(xs)", "def total(xs): return None"
STEPS = 2
# Loaded by every interpreter of the run; only the trainer imports the sampler.
REPLACE = """\
import importlib.abc, importlib.util, itertools, json, os, sys

TEXTS = itertools.cycle(json.load(open(os.environ["SDPO_TEST_TEXTS"])))

class Replacing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "sdpo_megatron.rollout.sampler":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            module.decode_response = lambda *_, **__: next(TEXTS)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Replacing())
"""


def task_file(folder: Path) -> Path:
    """One function to write, in LiveCodeBench's layout."""
    tests = [{**test, "testtype": "functional"} for test in FUNCTION_ITEM["tests"]]
    file = folder / "task.jsonl"
    line = {
        "question_title": "Total",
        "question_content": "Return the sum of a list.",
        "platform": "own",
        "question_id": "total",
        "contest_id": "own",
        "contest_date": "2026-01-01T00:00:00",
        "starter_code": "def total(xs):\n    pass\n",
        "difficulty": "easy",
        "public_test_cases": json.dumps(tests[:2]),
        "private_test_cases": json.dumps(tests[2:]),
        "metadata": json.dumps({"func_name": "total"}),
    }
    file.write_text(json.dumps(line) + "\n")
    return file


def train(model: Path, folder: Path, texts: list[str]) -> list[dict[str, float]]:
    """The numbers of a run whose attempts say `texts` in turn."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(REPLACE)
    (folder / "texts.json").write_text(json.dumps(texts))
    changes = [
        *(f"run.steps={STEPS}", "task.name=livecodebench", f"task.path={task_file(folder)}"),
        *("task.verifier=null", "task.limit=null", "task.prefill=none", "batch.questions=1"),
        f"rollout.sampling.num_attempts={len(texts)}",
        *("judge.workers=2", "judge.code.cpu_s=1", "judge.code.wall_s=5"),
    ]
    arguments = runs.overrides(model, folder / "run", *changes)
    process = subprocess.Popen(
        [sys.executable, "-m", "sdpo_megatron.cli", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(folder), os.getcwd()]),
            "SDPO_TEST_TEXTS": str(folder / "texts.json"),
        },
    )
    output, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, output
    return runs.numbers(folder / "run")


def test_hostile_attempts_train_as_wrong_ones_do(tiny_llama: Path, tmp_path: Path) -> None:
    attacks = list(FUNCTION_ATTACKS.values())
    hostile = train(tiny_llama, tmp_path / "hostile", [RIGHT, *attacks, RIGHT])
    wrong = train(tiny_llama, tmp_path / "wrong", [RIGHT, *[WRONG] * len(attacks), RIGHT])
    assert hostile == wrong
    expected = 2 / (len(attacks) + 2)
    assert [row["rollout/reward_mean"] for row in hostile] == pytest.approx([expected] * STEPS)
    assert all(row["train/grad_norm"] > 0 for row in hostile)
