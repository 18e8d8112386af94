"""A policy version on disk: a Hugging Face folder that engines load, and the checksum that they
must then report.
"""

from __future__ import annotations

from pathlib import Path

import torch

from sdpo_megatron.actor.actor import Actor
from sdpo_megatron.weights.export import export_hf
from sdpo_megatron.weights.spec import read_config
from serving.checksum import EngineChecksum
from serving.config import EngineConfig


def write_version(actor: Actor, source: Path, target: Path, engine: EngineConfig) -> str:
    """Write the live weights to `target` in the engine's dtype; collective.

    Returns:
        On rank 0 the checksum of what the trainer holds, as an engine computes it; elsewhere "".
        Also "" for engines on a GPU, which hash in another way: there the swap is checked among
        engines only.
    """
    checksum = EngineChecksum(read_config(source), dtype=engine.dtype, tp_size=engine.tp)
    export_hf(
        actor.chunks,
        actor.spec,
        source,
        target,
        getattr(torch, engine.dtype),
        overwrite=True,
        observe=checksum.add,
    )
    first = torch.distributed.get_rank() == 0
    return checksum.overall() if first and actor.runtime.is_cpu else ""
