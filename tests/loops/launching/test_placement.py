"""Who gets which GPU, and what is refused before anything starts; the caller counts the GPUs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.config import TrainConfig, load
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.loops.launching.placement import Placement, assign
from serving.command import engine_environment
from serving.config import EngineConfig

REPOSITORY = Path(__file__).parents[3]


def config(trainer: str = "auto", **engine: Any) -> TrainConfig:
    plain = load(["model.path=/models/m"])
    return replace(
        plain,
        run=replace(plain.run, device=trainer),
        rollout=replace(plain.rollout, engine=EngineConfig(**engine)),
    )


def test_engines_get_what_the_ranks_leave() -> None:
    found = assign(config(num_engines=2, tp=2), num_gpus=8, local_ranks=4)
    assert found == Placement((0, 1, 2, 3), ((4, 5), (6, 7)))
    assert found.lines()[3:6] == ["GPU 3: rank 3", "GPU 4: engine 0", "GPU 5: engine 0"]


def test_engines_get_the_gpus_that_they_name() -> None:
    found = assign(config(num_engines=2, gpus=(7, 5)), num_gpus=8, local_ranks=4)
    assert found.engines == ((7,), (5,))


def test_a_shared_gpu_needs_a_share_of_its_memory() -> None:
    shared = {"num_engines": 2, "gpus": (0, 1)}
    found = assign(config(**shared, mem_fraction=0.4), num_gpus=2, local_ranks=2)
    assert found.lines() == ["GPU 0: rank 0, engine 0", "GPU 1: rank 1, engine 1"]
    for fraction in (0.0, 0.5, 0.8):
        with pytest.raises(ConfigError, match=r"shares \[0, 1\] with trainer ranks"):
            assign(config(**shared, mem_fraction=fraction), num_gpus=2, local_ranks=2)


def test_engines_that_give_their_memory_back_may_have_more_of_it() -> None:
    shared = {"num_engines": 2, "gpus": (0, 1), "release_memory": True}
    found = assign(config(**shared, mem_fraction=0.8), num_gpus=3, local_ranks=2)
    assert found.in_turn
    assert found.lines() == [
        "GPU 0: rank 0, engine 0 (in turn)",
        "GPU 1: rank 1, engine 1 (in turn)",
    ]
    for fraction in (0.0, 0.9):
        with pytest.raises(ConfigError, match=r"give one below 0\.9$"):
            assign(config(**shared, mem_fraction=fraction), num_gpus=2, local_ranks=2)


@pytest.mark.parametrize(
    ("device", "engine", "num_gpus"),
    [
        ("auto", {}, 4),  # engines have GPUs of their own
        ("auto", {"device": "cpu"}, 4),
        ("auto", {}, 0),
        ("cpu", {}, 4),
    ],
)
def test_memory_that_nobody_would_use_is_not_given_back(
    device: str, engine: dict[str, Any], num_gpus: int
) -> None:
    with pytest.raises(ConfigError, match="no engine shares a GPU with a trainer rank"):
        assign(config(device, release_memory=True, **engine), num_gpus, local_ranks=2)


def test_engines_of_somebody_else_give_nothing_back() -> None:
    with pytest.raises(ConfigError, match=r"release_memory=true: is for engines that we start"):
        EngineConfig(urls=("http://engine-0:30000",), release_memory=True)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_machine_without_gpus_has_nothing_to_place(device: str) -> None:
    assert assign(config(device), num_gpus=0, local_ranks=2) == Placement()
    assert assign(config("cpu"), num_gpus=4, local_ranks=8) == Placement()


def test_engines_elsewhere_take_nothing_here() -> None:
    found = assign(config(urls=("http://engine-0:30000",)), num_gpus=2, local_ranks=2)
    assert found == Placement((0, 1))


@pytest.mark.parametrize(
    ("device", "engine", "num_gpus", "ranks", "message"),
    [
        ("auto", {}, 1, 2, r"2 trainer ranks .* need a GPU each, and 1 are visible"),
        ("cuda", {}, 0, 1, r"1 trainer ranks .* and 0 are visible here.*run.device=cpu"),
        ("auto", {}, 1, 1, r"need 1 GPUs, and of 1 visible here 0 are left beside 1 trainer"),
        ("auto", {"tp": 4}, 6, 4, r"rollout.engine.tp=4 need 4 GPUs, and of 6 visible here 2"),
        ("auto", {"gpus": (1, 2)}, 4, 1, r"gpus=\[1, 2\]: 1 engines .* need 1 GPUs"),
        ("auto", {"gpus": (2, 2), "tp": 2}, 4, 1, "each named once"),
        ("auto", {"gpus": (4,)}, 4, 1, r"\[4\] are not there; 4 GPUs are visible"),
        ("auto", {"gpus": (0,), "device": "cpu"}, 4, 1, "the engines run on the CPU"),
        ("cpu", {"device": "cuda"}, 4, 1, "rollout.engine.device=cuda with run.device=cpu"),
    ],
)
def test_what_cannot_be_is_refused(
    device: str, engine: dict[str, Any], num_gpus: int, ranks: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        assign(config(device, **engine), num_gpus, ranks)


def test_the_quickstart_trains_and_generates_on_the_cpu_wherever_it_runs() -> None:
    quickstart = load(["experiment=quickstart"])
    assert assign(quickstart, num_gpus=1, local_ranks=2) == Placement()


def test_the_papers_eight_engines_share_eight_gpus_with_the_ranks() -> None:
    given = ["model.path=/models/m", "task.path=null", "validation.every=0"]
    paper = load(["experiment=paper", *given])
    found = assign(paper, num_gpus=8, local_ranks=paper.parallel.model_ranks)
    assert found.lines() == [f"GPU {i}: rank {i}, engine {i}" for i in range(8)]
    assert 0 < paper.rollout.engine.mem_fraction < 0.5


@pytest.mark.parametrize(
    ("visible", "names"), [(None, ["2,3", "0,1"]), ("4, 5,6,7", ["6,7", "4,5"])]
)
def test_each_engine_sees_its_own_gpus_alone(
    visible: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    engines = EngineConfig(device="cuda", num_engines=2, tp=2)
    engines = Placement((), ((2, 3), (0, 1))).engine_config(engines)
    found = [engine_environment(engines, index)["CUDA_VISIBLE_DEVICES"] for index in (0, 1)]
    assert found == names


def test_the_trainers_allocator_is_not_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    assert "PYTORCH_ALLOC_CONF" not in engine_environment(EngineConfig(device="cuda"))
    ours = EngineConfig(device="cuda", extra_env=("PYTORCH_ALLOC_CONF=x:1",))
    assert engine_environment(ours)["PYTORCH_ALLOC_CONF"] == "x:1"


def test_a_rank_sets_what_cuda_libraries_read_before_torch_is_imported(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from sdpo_megatron.loops import rank\n"
        "assert 'torch' not in sys.modules\n"
        "rank.main([sys.argv[1]])\n"
        "print(os.environ['NVTE_ALLOW_NONDETERMINISTIC_ALGO'], os.environ['PYTORCH_ALLOC_CONF'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["0", "expandable_segments:True"], done.stderr[-2000:]
