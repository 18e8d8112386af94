"""``sdpo export RUN OUT``: the weights of a run's checkpoint as a Hugging Face folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdpo_megatron.errors import CheckpointError, ConfigError

DTYPES = {"bfloat16", "float32", "float16"}


def main(argv: Sequence[str]) -> int:
    """Write the folder; 0 on success. Under torchrun the model is split as the run's `parallel`
    says, else on one rank.

    Raises:
        ConfigError: RUN is no run folder.
        CheckpointError: It has no whole checkpoint, or OUT exists.
    """
    parser = argparse.ArgumentParser(prog="sdpo export", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    parser.add_argument(
        "--step", type=int, help="checkpoint after this step; the newest by default"
    )
    parser.add_argument(
        "--weights",
        default="live",
        choices=["live", "ema", "initial", "restarted"],
        help="live: the student; others: the teacher's set of that name",
    )
    parser.add_argument(
        "--dtype",
        choices=sorted(DTYPES),
        help="of the written tensors; by default what the model's config.json names",
    )
    parser.add_argument(
        "--fp8",
        action="store_true",
        help="matrices of layers in block-wise FP8, as SGLang serves them; the rest in --dtype",
    )
    parsed = parser.parse_args(list(argv))
    if not (parsed.run / "config.yaml").is_file():
        raise ConfigError(f"{parsed.run} is no run folder: it holds no config.yaml")
    if parsed.out.exists():
        raise CheckpointError(f"{parsed.out} exists; remove it or export to another folder")
    export(
        parsed.run,
        parsed.out,
        step=parsed.step,
        weights=parsed.weights,
        dtype=parsed.dtype or ("bfloat16" if parsed.fp8 else None),
        in_fp8=parsed.fp8,
    )
    print(f"wrote {parsed.out}")
    return 0


def export(
    run: Path,
    out: Path,
    *,
    step: int | None,
    weights: str,
    dtype: str | None,
    in_fp8: bool = False,
) -> None:
    """See `main`."""
    from sdpo_megatron.actor.checkpoint import whole_checkpoints

    found = dict(whole_checkpoints(run / "checkpoints"))
    chosen = step if step is not None else max(found, default=-1)
    if chosen not in found:
        have = ", ".join(map(str, found)) or "none"
        raise CheckpointError(
            f"{run}/checkpoints has no whole checkpoint of step {chosen}; there are: {have}"
        )

    from sdpo_megatron.actor.runtime import start_runtime

    with start_runtime().joined_process_group():
        _export(run, found[chosen], out, weights=weights, dtype=dtype, in_fp8=in_fp8)


def _export(
    run: Path, checkpoint: Path, out: Path, *, weights: str, dtype: str | None, in_fp8: bool
) -> None:
    import torch

    from sdpo_megatron.actor.checkpoint import load_parameters
    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel
    from sdpo_megatron.config import load_saved
    from sdpo_megatron.weights import fp8
    from sdpo_megatron.weights.export import export_hf
    from sdpo_megatron.weights.spec import ModelSpec

    config = load_saved(run / "config.yaml")
    parallel = config.parallel if torch.distributed.get_world_size() > 1 else ParallelConfig()
    spec = ModelSpec.from_folder(config.model.path)
    if in_fp8:
        fp8.check_layout(spec, tensor_parallel=1)
    init_model_parallel(parallel)
    # fp32, so that every dtype is rounded once.
    models = build_model(spec, parallel, PrecisionConfig(dtype="fp32"))
    load_parameters(checkpoint, models, "master" if weights == "live" else f"teacher_{weights}")
    written = getattr(torch, dtype) if dtype else None
    export_hf(models, spec, config.model.path, out, written, in_fp8=in_fp8)
