"""Speeds in round numbers, and models made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sdpo_megatron import config as configs
from sdpo_megatron.actor.model.config import ParallelConfig
from sdpo_megatron.planning.cluster import Cluster
from sdpo_megatron.planning.lengths import Lengths
from sdpo_megatron.planning.models import MODELS
from sdpo_megatron.planning.phases import Model
from sdpo_megatron.planning.speeds import Speeds
from sdpo_megatron.planning.workload import Workload

SPEC = MODELS["qwen3-8b"]
ROUND = Speeds(
    title="round numbers",
    train_flops=4e14,
    score_flops=4e14,
    prefill_flops=1e30,
    iteration_s=0.010,
    sequence_s=0.001,
    context_s=0.0,
    memory_bytes_s=1e12,
    link_bytes_s=1e11,
    network_bytes_s=5e10,
    host_bytes_s=1e10,
    disk_bytes_s=2e9,
    shared_bytes_s=1e10,
    swap_s=0.5,
    judge_s=0.25,
)


def model(
    *,
    speeds: dict[str, Any] | None = None,
    work: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    transport: str = "disk",
    overrides: tuple[str, ...] = (),
) -> Model:
    """16 ranks of tensor 4 x data 4 on 2 machines, 8 engines; 32 questions x 8 attempts of 100
    tokens each, all alike.
    """
    config = configs.load(["experiment=science", "model.path=/m", "task.path=/t", *overrides])
    asked = Workload.of(config, prompt=50, teacher_prompt=150)
    asked = replace(asked, lengths=Lengths(mean=100, spread=0, limit=8192))
    place = Cluster(
        parallel=ParallelConfig(tensor=4, sequence_parallel=True),
        data_parallel=4,
        nodes=2,
        ranks_per_node=8,
        engines=8,
        engine_tp=1,
        slots=64,
        engine_nodes=2,
        judges=16,
        cells=1,
    )
    return Model(
        config=config,
        spec=SPEC,
        cluster=replace(place, **(cluster or {})),
        speeds=replace(ROUND, **(speeds or {})),
        work=replace(asked, **(work or {})),
        transport=transport,
    )
