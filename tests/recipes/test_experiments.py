"""Recipes are the experiments of conf laid out for machines; what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes import experiments
from recipes.engines import engine_bytes, engines_for
from recipes.experiments import planned, quoted
from sdpo_megatron import config as configs
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields.reading import dotted, to_plain
from sdpo_megatron.loops.launching.placement import assign
from sdpo_megatron.planning.hardware import GPUS, Machines
from sdpo_megatron.planning.layouts import candidates, choose
from sdpo_megatron.planning.memory import layout_text, memory_sheet
from sdpo_megatron.planning.models import MODELS

DATA: dict[str, Any] = {"model_path": "/models/m", "task_path": "/data/items"}
TWO = Machines.of("h100", nodes=2, engine_nodes=1)


@pytest.mark.parametrize(
    ("make", "experiment", "more"),
    [
        (experiments.livecodebench, "livecodebench", []),
        (experiments.science, "science", ["task.subset=chemistry"]),
        (experiments.tool_use, "tool_use", []),
        (experiments.grpo, "grpo", ["task=science"]),
        (lambda **k: experiments.grpo(on_policy=True, **k), "grpo_on_policy", ["task=science"]),
        (
            lambda **k: experiments.grpo(task="livecodebench", **k),
            "livecodebench_grpo",
            [],
        ),
        (lambda **k: experiments.discovery(question="q", **k), "test_time", ["task.ids=[q]"]),
    ],
)
def test_a_recipe_differs_from_its_experiment_in_the_layout_alone(
    make: Any, experiment: str, more: list[str]
) -> None:
    base = ["model.path=/models/m", "task.path=/data/items", *more]
    ours = dotted(to_plain(make(**DATA, machines=TWO)))
    theirs = dotted(to_plain(configs.load([f"experiment={experiment}", *base])))
    changed = {key for key in ours if ours[key] != theirs[key]}
    layout = ("parallel.", "run.data_parallel", "rollout.engine.")
    assert {key for key in changed if not key.startswith(layout)} == set()


def test_the_baseline_of_another_task() -> None:
    config = experiments.grpo(**DATA, task="tool_use", machines=TWO)
    assert (config.task.name, config.objective.weighting.kind) == ("toolalpaca", "grpo")


def test_qwen3_8b_takes_four_gpus_a_copy_beside_engines_on_machines_of_their_own() -> None:
    config = experiments.science(**DATA, machines=TWO)
    assert layout_text(config.parallel, config.run.data_parallel) == "tensor 4, data 4"
    engine = config.rollout.engine
    assert (engine.num_engines, engine.tp, engine.mem_fraction) == (8, 1, 0.0)


@pytest.fixture(scope="module")
def science() -> TrainConfig:
    return configs.load(["experiment=science", "model.path=/m", "task.path=/t"])


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("model", MODELS)
def test_what_is_chosen_fits_model_machines_and_memory(
    science: TrainConfig, model: Any, gpu: str
) -> None:
    machines = Machines.of(gpu, nodes=4, engine_nodes=2)
    found = choose(science, MODELS[model], machines)
    found.parallel.check_model(MODELS[model])
    found.parallel.check_world(32)
    assert found.parallel.model_ranks * found.data_parallel == 32
    assert found.sheet.fits


def test_no_smaller_layout_would_have_fitted(science: TrainConfig) -> None:
    chosen = choose(science, MODELS["qwen3-8b"], TWO).parallel
    tried = []
    for parallel in candidates(MODELS["qwen3-8b"], TWO):
        copies = TWO.ranks // parallel.model_ranks
        sheet = memory_sheet(
            science, MODELS["qwen3-8b"], TWO, parallel=parallel, data_parallel=copies
        )
        tried.append(sheet.fits)
        if parallel == chosen:
            break
    assert tried == [False] * (len(tried) - 1) + [True]
    assert len(tried) > 1


def test_layouts_go_from_few_ranks_to_many_then_recompute() -> None:
    found = list(candidates(MODELS["qwen3-4b"], Machines.of("h100")))
    ranks = [p.model_ranks for p in found if p.recompute == "none"]
    assert ranks == sorted(ranks)
    assert {p.recompute for p in found[len(ranks) :]} == {"full"}
    assert all(p.sequence_parallel == (p.tensor > 1) for p in found)


def test_what_fits_nowhere_is_refused_with_the_sheet() -> None:
    with pytest.raises(ConfigError) as refused:
        experiments.science(**DATA, model="qwen3-32b", machines=Machines.of("h200"))
    said = str(refused.value)
    assert said.startswith("qwen3-32b on H200 141 GB: no layout fits 1 x 8 GPUs. Use more nodes")
    assert "moments                     8 B x 4,096 M owned" in said
    assert said.splitlines()[-1].split()[:3] == ["of", "the", "GPU"]


def test_a_layout_of_ones_own_is_kept_checked_and_refused_with_its_sheet() -> None:
    mine = ["parallel.tensor=8", "parallel.recompute=selective"]
    config = experiments.science(**DATA, machines=TWO, overrides=mine)
    assert (config.parallel.tensor, config.run.data_parallel) == (8, 2)
    alone = ["parallel.tensor=1", "parallel.sequence_parallel=false"]
    with pytest.raises(ConfigError, match=r"(?s)this layout does not fit\..*data 16, stage 0\n"):
        experiments.science(**DATA, machines=TWO, overrides=alone)
    with pytest.raises(ConfigError, match="does not divide num_attention_heads 32"):
        experiments.science(**DATA, machines=TWO, overrides=["parallel.tensor=3"])
    with pytest.raises(ConfigError, match="are 8 ranks, and the 2 x 8 GPUs take 16"):
        experiments.science(**DATA, machines=TWO, overrides=[*mine, "run.data_parallel=1"])


def test_overrides_have_the_last_word() -> None:
    overrides = ["run.steps=3", "rollout.engine.tp=2", "rollout.sampling.num_attempts=4"]
    config = experiments.science(**DATA, machines=TWO, overrides=overrides)
    assert (config.run.steps, config.rollout.engine.tp) == (3, 2)
    assert config.rollout.sampling.num_attempts == 4


@pytest.mark.parametrize(
    "text", ["a'b", r"a\'b", "a\\", r"a\\'b", "x y", "[a,b]", "a=b", '"q"', "${x}", r"a\b\'c", ""]
)
def test_any_text_can_be_a_value(text: str) -> None:
    config = configs.load([f"task.ids=[{quoted(text)}]"])
    assert config.task.ids == (text,)


def test_engines_are_the_smallest_that_hold_the_model_and_its_cache(science: TrainConfig) -> None:
    cache = 2 * 2 * 64 * 8 * 128 * 1000
    assert engine_bytes(MODELS["qwen3-32b"], 1, 1000) == 2 * 32762123264 + cache
    assert engine_bytes(MODELS["qwen3-32b"], 8, 1000) == 32762123264 // 4 + cache // 8
    assert engine_bytes(MODELS["qwen3-30b-a3b"], 8, 1000) == (
        2 * 30532122624 // 8 + 2 * 2 * 48 * 1 * 128 * 1000  # 4 key-value heads on 8 GPUs
    )
    # Of 67.7 GiB, on one GPU 61.0 for the weights and 72 for the cache; on two 30.5 and 36.
    found = engines_for(science, MODELS["qwen3-32b"], Machines.of("h100", nodes=2, engine_nodes=2))
    assert (found.tp, found.number) == (2, 8)
    shared = engines_for(science, MODELS["qwen3-8b"], Machines.of("h200"))
    assert (shared.mem_fraction, shared.gpus) == (0.4, tuple(range(8)))
    assert (found.mem_fraction, found.gpus) == (0.0, ())
    with pytest.raises(ConfigError, match=r"an engine of 1 GPUs needs 133\.0 GiB on each"):
        experiments.science(
            **DATA, model="qwen3-32b", machines=TWO, overrides=["rollout.engine.tp=1"]
        )


def test_engines_on_the_trainers_gpus_can_be_placed_or_are_refused() -> None:
    machine = Machines.of("h200")
    overrides = ["rollout.engine.tp=2", "rollout.engine.mem_fraction=0.3"]
    config = experiments.science(**DATA, machines=machine, overrides=overrides)
    assert assign(config, 8, 8).engines == ((0, 1), (2, 3), (4, 5), (6, 7))
    with pytest.raises(ConfigError, match=r"mem_fraction=0\.6 leaves them too little"):
        experiments.science(
            **DATA,
            machines=machine,
            model="qwen3-0.6b",
            overrides=["rollout.engine.mem_fraction=0.6"],
        )


def test_machines_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"gpu=t4: there is no such kind; kinds: a100, h100"):
        Machines.of("t4")
    with pytest.raises(ConfigError, match="nodes=2 needs engine_nodes"):
        Machines.of("h100", nodes=2)
    with pytest.raises(ConfigError, match="nodes=0, engine_nodes=0: expected at least 1"):
        Machines.of("h100", nodes=0)


def test_the_checkpoint_must_be_the_model_that_was_named(tmp_path: Path) -> None:
    shape = {"model_type": "qwen3", "num_hidden_layers": 28, "hidden_size": 1024}
    shape |= {"intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8}
    shape |= {"head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}
    (tmp_path / "config.json").write_text(json.dumps(shape | {"tie_word_embeddings": True}))
    planned("science", "qwen3-0.6b", str(tmp_path), "/t", TWO)
    with pytest.raises(ConfigError, match=r"another model than model=qwen3-8b: num_layers 28, exp"):
        planned("science", "qwen3-8b", str(tmp_path), "/t", TWO)
    with pytest.raises(ConfigError, match="model=qwen9: there is no such size"):
        planned("science", "qwen9", str(tmp_path), "/t", TWO)  # type: ignore[arg-type]


def test_choosing_needs_no_torch() -> None:
    import subprocess
    import sys

    program = (
        "import sys\n"
        "from recipes.experiments import science\n"
        "from sdpo_megatron.planning.hardware import Machines\n"
        "science(model_path='/m', task_path='/t', machines=Machines.of('h200'))\n"
        "print(sorted({'torch', 'nemo_run', 'megatron'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_layouts_are_chosen_for_the_longest_sequences_asked_for() -> None:
    config = configs.load(
        [
            *("experiment=science", "model.path=/m", "task.path=/t"),
            "rollout.sampling.max_new_tokens=1024",
            "batch.micro_batch_tokens=11264",
        ]
    )
    short = choose(config, MODELS["qwen3-8b"], TWO)
    assert short.parallel.model_ranks < 4
