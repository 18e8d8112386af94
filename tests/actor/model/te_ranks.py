"""Ranks that build models of Transformer Engine's layers on a CPU: parameters, no computing.

A GPU is claimed where Transformer Engine and Megatron ask for one while they build; tensors lie in
host memory all the same.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RANKS = 4
Case = tuple[str, dict[str, Any], str | None]
"""(folder of a checkpoint, layout, FP8 recipe or None)."""


def on_ranks(cases: list[Case], timeout_s: float = 600.0) -> list[list[dict[str, Any]]]:
    """What each rank says of each case: ``result[rank][case]``.

    Raises:
        AssertionError: A rank failed; holds the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="te-ranks-") as folder:
        work = Path(folder) / "cases"
        work.write_bytes(pickle.dumps(cases))
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", __name__, folder, str(rank)],
                env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stderr=subprocess.PIPE,
            )
            for rank in range(RANKS)
        ]
        try:
            said = [process.communicate(timeout=timeout_s)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        for rank, process in enumerate(processes):
            assert process.returncode == 0, f"rank {rank}: {said[rank].decode()[-4000:]}"
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(RANKS)]


def main(folder: str, rank: int) -> None:
    """One rank of `on_ranks`."""
    import torch

    torch.set_num_threads(1)
    import transformer_engine.pytorch  # noqa: F401 (before the runtime, which would shut it out)

    import sdpo_megatron.actor.runtime as runtimes

    runtimes._shut_out_transformer_engine = lambda: None
    runtime = runtimes.start_runtime("cpu")
    object.__setattr__(runtime, "te_problem", "")
    object.__setattr__(runtime, "capability", lambda: (9, 0))
    cuda: Any = torch.cuda
    cuda.is_available = lambda: True
    cuda.get_device_capability = lambda *_: (9, 0)
    cuda.get_device_properties = lambda *_: SimpleNamespace(
        major=9, minor=0, name="claimed", multi_processor_count=132
    )
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS
    )
    from megatron.core import parallel_state

    results = []
    for case in pickle.loads((Path(folder) / "cases").read_bytes()):
        results.append(built(*case))
        parallel_state.destroy_model_parallel()
    (Path(folder) / str(rank)).write_bytes(pickle.dumps(results))


def built(folder: str, layout: dict[str, Any], fp8: str | None) -> dict[str, Any]:
    """The model on this rank: names, shapes and marks of its parameters, the keys of its
    checkpoints, and, on rank 0, the checkpoint's tensors after they were loaded into it.
    """
    from megatron.core.fp8_utils import get_fp8_context

    from sdpo_megatron.actor.checkpoint.pieces import parts_of
    from sdpo_megatron.actor.drift import in_bf16
    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel
    from sdpo_megatron.weights.gather import iter_hf_tensors
    from sdpo_megatron.weights.layout import current_position
    from sdpo_megatron.weights.load import load_hf_weights
    from sdpo_megatron.weights.spec import ModelSpec

    spec, parallel = ModelSpec.from_folder(folder), ParallelConfig(**layout)
    init_model_parallel(parallel)
    (model,) = build_model(spec, parallel, PrecisionConfig(dtype="bf16", fp8=fp8))
    load_hf_weights([model], spec, folder)
    parts = parts_of([model])
    found = {
        "position": current_position(),
        "layer": type(model.decoder.layers[0].self_attention.linear_qkv).__name__,
        "shapes": {name: tuple(p.shape) for name, p in model.named_parameters()},
        "in float32": {
            name: module.fuse_wgrad_accumulation
            for name, module in model.named_modules()
            if hasattr(module, "fuse_wgrad_accumulation")
        },
        "dtypes": {str(p.dtype) for p in model.parameters()},
        "marks": {name: _marks(p) for name, p in model.named_parameters()},
        "unsaved": [name for name, p in model.named_parameters() if id(p) not in parts],
        "keys": sorted({part.key for some in parts.values() for part in some}),
        "gathered": {name: t for name, t in iter_hf_tensors([model], spec) if t is not None},
    }
    if fp8:
        with get_fp8_context(model.config) as _:
            from transformer_engine.pytorch.fp8 import FP8GlobalStateManager

            recipe = FP8GlobalStateManager.get_fp8_recipe()
            found["recipe"] = (type(recipe).__name__, str(recipe.fp8_format.name))
            found["on"] = FP8GlobalStateManager.is_fp8_enabled()
        with in_bf16([model]), get_fp8_context(model.config):
            found["off"] = FP8GlobalStateManager.is_fp8_enabled()
    return found


def _marks(parameter: Any) -> dict[str, Any]:
    names = ("tensor_model_parallel", "partition_dim", "sequence_parallel", "allreduce")
    return {name: getattr(parameter, name, None) for name in names}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    os._exit(0)  # gloo's threads
