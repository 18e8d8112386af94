"""The runtime: one choice of device, redirections on a CPU only, megatron's calls meaning the CPU.

Each test is a process of its own: redirections last as long as the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parent.parent.parent
needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="redirects, so not with a GPU")


def run(program: str, **environment: str) -> str:
    """Standard output of a fresh interpreter in which warnings are errors."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@needs_cpu
def test_megatron_runs_its_cuda_calls_on_the_cpu() -> None:
    program = """
import warnings
warnings.simplefilter("error")
from sdpo_megatron.actor.runtime import current_runtime, start_runtime
runtime = start_runtime()
import torch
assert runtime.is_cpu and runtime.backend == "gloo" and not runtime.has_transformer_engine
assert runtime.capability() is None
assert start_runtime("cpu") is runtime is current_runtime()
# What megatron does, literally.
assert torch.zeros(2, device=torch.cuda.current_device()).device.type == "cpu"
assert torch.tensor([1.0], dtype=torch.float, device="cuda").device.type == "cpu"
assert torch.ones(1).cuda().device.type == "cpu"
assert torch.zeros(1).type() == "torch.cuda.FloatTensor"
assert torch.zeros(1, dtype=torch.bfloat16).type() == "torch.cuda.BFloat16Tensor"
assert torch.zeros(1).type(torch.int64).dtype == torch.int64
with torch.cuda.stream(torch.cuda.Stream()) as stream:
    stream.record_event().synchronize()
torch.cuda.synchronize()
# What it imports, without a word.
import megatron.core.models.gpt, megatron.core.optimizer, megatron.core.distributed
from megatron.core.transformer.moe import moe_utils
assert moe_utils.te_general_gemm is None
# The compiler is not broken by our stand-ins.
import torch._dynamo
warnings.simplefilter("default")
print("fine")
"""
    assert run(program) == "fine"


@needs_cpu
def test_alone_without_torchrun_seeds_and_memory() -> None:
    program = """
from sdpo_megatron.actor.runtime import start_runtime
runtime = start_runtime("cpu", timeout_s=20)
runtime.init_process_group()
import torch
from sdpo_megatron.actor.model.config import ParallelConfig
from sdpo_megatron.actor.model.gpt import init_model_parallel
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
init_model_parallel(ParallelConfig(), seed=7)
def draws():
    with get_cuda_rng_tracker().fork():
        inner = torch.rand(3)
    return torch.cat([inner, torch.rand(3)])
first = draws()
assert not torch.equal(first, draws())
runtime.seed(7)
assert torch.equal(first, draws())
assert torch.distributed.get_world_size() == 1
torch.distributed.destroy_process_group()
# Memory is that of the process.
before = runtime.memory_bytes()
held = torch.ones(64 * 2**20, dtype=torch.uint8)
assert 60e6 < runtime.memory_bytes() - before < 90e6
del held
assert runtime.memory_bytes() - before < 20e6
print("fine")
"""
    assert run(program, RANK="") == "fine"


@needs_cpu
def test_a_device_that_is_not_there() -> None:
    program = """
from sdpo_megatron.actor.runtime import start_runtime
from sdpo_megatron.errors import ConfigError
for device in ("cuda", "tpu"):
    try:
        start_runtime(device)
    except ConfigError as error:
        print(error)
"""
    lines = run(program).splitlines()
    assert lines == [
        "device=cuda: torch sees no CUDA device here; use device=cpu or device=auto",
        "device=tpu: expected auto, cuda or cpu",
    ]


def test_nothing_is_redirected_on_a_cuda_machine() -> None:
    """A machine with CUDA, as this process sees it: the choice is made and torch is left alone."""
    program = """
import torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 4
torch.cuda.set_device = lambda device: None
before = {name: vars(torch.cuda).get(name) for name in dir(torch.cuda)}
factories = [torch.zeros, torch.empty, torch.tensor, torch.Tensor.cuda, torch.Tensor.type]
from sdpo_megatron.actor.runtime import start_runtime
from sdpo_megatron.errors import ConfigError
try:
    start_runtime("cpu")
except ConfigError as error:
    assert "CUDA was started in this process before" in str(error)
else:
    raise AssertionError("redirected on a CUDA machine")
runtime = start_runtime()
# Tensors over NCCL; objects, for which ranks wait while attempts are sampled, over gloo.
assert (runtime.device, runtime.backend) == (torch.device("cuda", 3), "cpu:gloo,cuda:nccl")
assert runtime.te_problem.startswith("it cannot be imported here: ModuleNotFoundError")
assert before == {name: vars(torch.cuda).get(name) for name in dir(torch.cuda)}
assert factories == [torch.zeros, torch.empty, torch.tensor, torch.Tensor.cuda, torch.Tensor.type]
print("fine")
"""
    assert run(program, LOCAL_RANK="3") == "fine"


def test_more_ranks_than_gpus_is_said_by_the_rank_that_has_none() -> None:
    """Under torchrun no launcher has counted them."""
    program = """
import torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
from sdpo_megatron.actor.runtime import start_runtime
from sdpo_megatron.errors import ConfigError
try:
    start_runtime("cuda")
except ConfigError as error:
    print(error)
"""
    said = run(program, LOCAL_RANK="2")
    assert said.startswith("rank 2 of this machine has no GPU: 2 are visible")
    assert "run.device=cpu" in said


@needs_cpu
def test_a_cpu_run_hides_gpus_from_itself_and_from_what_it_starts() -> None:
    program = """
import os
from sdpo_megatron.actor.runtime import start_runtime
start_runtime("cpu")
print(repr(os.environ["CUDA_VISIBLE_DEVICES"]))
"""
    assert run(program, CUDA_VISIBLE_DEVICES="0,1") == "''"


def fake_transformer_engine(folder: Path, pytorch: str) -> str:
    """A package of its name; returns the path that makes it importable."""
    package = folder / "transformer_engine"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '2.11.0'\n")
    (package / "pytorch.py").write_text(pytorch)
    return str(folder)


@needs_cpu
def test_on_a_cpu_megatron_does_not_see_transformer_engine(tmp_path: Path) -> None:
    """It would take its fused operations, which have no kernel there."""
    program = """
from sdpo_megatron.actor.runtime import start_runtime
runtime = start_runtime("cpu")
import importlib.util
assert importlib.util.find_spec("transformer_engine") is None
from megatron.core.transformer.moe import moe_utils
from megatron.core.extensions import transformer_engine as extensions
print(extensions.HAVE_TE, moe_utils.te_general_gemm, runtime.te_problem)
"""
    path = fake_transformer_engine(tmp_path, "raise SystemExit('was imported')\n")
    assert run(program, PYTHONPATH=path) == "False None this process computes on a CPU"


def test_a_broken_transformer_engine_is_named_and_not_used(tmp_path: Path) -> None:
    program = """
import torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.set_device = lambda device: None
from sdpo_megatron.actor.runtime import start_runtime
runtime = start_runtime("cuda")
print(runtime.has_transformer_engine, runtime.te_problem)
"""
    path = fake_transformer_engine(tmp_path, "raise OSError('libcudnn.so.9: no such file')\n")
    said = "False it cannot be imported here: OSError: libcudnn.so.9: no such file"
    assert run(program, PYTHONPATH=path, LOCAL_RANK="0") == said
    (tmp_path / "transformer_engine" / "pytorch.py").write_text("")
    assert run(program, PYTHONPATH=path, LOCAL_RANK="0").strip() == "True"


def test_no_other_file_asks_about_cuda() -> None:
    words = ("torch.cuda", "is_available()", "device_count()")
    askers = [
        f"{file.relative_to(REPOSITORY)}: {word}"
        for folder in ("actor", "weights", "objectives", "loops", "rollout")
        for file in sorted((REPOSITORY / "sdpo_megatron" / folder).rglob("*.py"))
        if file.name != "runtime.py"
        for word in words
        if word in file.read_text()
    ]
    assert askers == []


def test_a_command_that_leaves_its_world_leaves_no_thread_of_gloo_s() -> None:
    """One that still works when the interpreter ends can abort it, after all work was done."""
    program = """
from pathlib import Path
from sdpo_megatron.actor.runtime import start_runtime
def threads():
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return sum("gloo" in name for name in names)
runtime = start_runtime()
import torch.distributed as dist
with runtime.joined_process_group():
    dist.broadcast_object_list([None], src=0)
    during = threads()
print(during > 0, threads(), dist.is_initialized())
"""
    assert run(program) == "True 0 False"
