"""The engines: a StatefulSet of SGLang servers, and a Service that names each of their pods.

Their command line and environment are those of a local run (`serving.command`).
"""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.rendering import names
from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.in_cluster import claims_of
from sdpo_megatron.rendering.pods import (
    DATA,
    Folder,
    Manifest,
    claim,
    container,
    disruption_budget,
    headless_service,
    labels,
    pod,
    resources,
    scratch,
    shared_memory,
    spread,
    stateful_set,
)
from sdpo_megatron.rendering.size import Size
from serving.command import engine_flags, engine_module, engine_variables

COMPONENT = "engine"
_SCRATCH_GIB = 32
_CPU_SCRATCH_GIB = 4
_STARTUP_PERIOD_S = 5
_STOP_S = 30


def engines(config: TrainConfig, cluster: Cluster, size: Size) -> list[Manifest]:
    """Service, StatefulSet and disruption budget. `config` is from `in_cluster`."""
    run = config.run.name
    name, tags = names.engines(run), labels(run, COMPONENT)
    ports = {"http": names.ENGINE_PORT}
    service = headless_service(name, cluster.namespace, tags, ports, all_pods=True)
    pods = stateful_set(name, cluster.namespace, tags, size.engines, _pod(config, cluster, size))
    return [service, pods, disruption_budget(name, cluster.namespace, tags)]


def _pod(config: TrainConfig, cluster: Cluster, size: Size) -> Manifest:
    run, engine, ranks = config.run.name, config.rollout.engine, size.engine_ranks
    tags = labels(run, COMPONENT)
    # It only reads: models, and what the trainer publishes in the run folder.
    claims = [claim(path, read_only=True) for path in claims_of(config) if path != DATA]
    folders = [
        scratch(_SCRATCH_GIB if size.engine_gpus else _CPU_SCRATCH_GIB),
        shared_memory(cluster.shm_gib),
        *claims,
    ]
    answers = {"httpGet": {"path": "/model_info", "port": "http"}, "timeoutSeconds": 5}
    tries = math.ceil(engine.start_timeout_s / _STARTUP_PERIOD_S)
    main = container(
        COMPONENT,
        cluster.serving_image,
        folders,
        environment={
            "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor",
            **engine_variables(engine),
        },
        command=["tini", "--", "python", *engine_module()],
        # One seed for all: requests carry their own where it matters.
        args=engine_flags(
            replace(engine, urls=()), Path(config.model.path), names.ENGINE_PORT, config.run.seed
        ),
        ports=[{"name": "http", "containerPort": names.ENGINE_PORT}],
        startupProbe={**answers, "periodSeconds": _STARTUP_PERIOD_S, "failureThreshold": tries},
        readinessProbe={**answers, "periodSeconds": 5, "failureThreshold": 3},
        # Whether it still generates is watched by the trainer (rollout.engine.health_interval_s);
        # this is for a process that does not answer at all.
        livenessProbe={**answers, "periodSeconds": 20, "failureThreshold": 6},
        resources=resources(
            ranks * (cluster.cpus_per_rank if size.engine_gpus else engine.threads),
            ranks * cluster.memory_gib_per_rank,
            ranks if size.engine_gpus else 0,
        ),
    )
    waiting = [_model_waiter(config, cluster, claims)] if config.model.prepare else []
    return pod(
        tags,
        [main],
        folders,
        account="sdpo-engine",
        priority="sdpo-engine",
        gpus=size.engine_gpus,
        terminationGracePeriodSeconds=_STOP_S,
        topologySpreadConstraints=spread(tags),
        **({"initContainers": waiting} if waiting else {}),
    )


def _model_waiter(config: TrainConfig, cluster: Cluster, claims: list[Folder]) -> Manifest:
    """The trainer makes the model folder (model.prepare), and may start later than the engine."""
    wanted = shlex.quote(f"{config.model.path}/config.json")
    return container(
        "model",
        cluster.serving_image,
        claims,
        command=["sh", "-c", f"until [ -f {wanted} ]; do sleep 1; done"],
        resources=resources(1, 1),
    )
