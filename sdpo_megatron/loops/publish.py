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
from serving.command import resolve_device
from serving.config import EngineConfig


def write_version(actor: Actor, source: Path, target: Path, engine: EngineConfig) -> str:
    """Write the live weights to `target` in the engine's dtype; collective.

    Returns:
        On rank 0 the checksum of what the trainer holds, as an engine on its device computes it;
        elsewhere "": only rank 0 talks to engines.
    """
    checksum = EngineChecksum(
        read_config(source), dtype=engine.dtype, tp_size=engine.tp, device=resolve_device(engine)
    )
    export_hf(
        actor.chunks,
        actor.spec,
        source,
        target,
        getattr(torch, engine.dtype),
        overwrite=True,
        observe=checksum.add,
    )
    return checksum.overall() if torch.distributed.get_rank() == 0 else ""
