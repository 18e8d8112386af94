"""The configuration of a run as its pods are to read it: where engines, verifiers and files are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.rendering import names
from sdpo_megatron.rendering.cluster import Cluster, is_dns_label
from sdpo_megatron.rendering.pods import CLAIMS, DATA, MODELS, RUNS, TOKEN_FILE
from sdpo_megatron.rollout.config import WorkerConfig

EVERYWHERE = "0.0.0.0"
_PEER_S = 60  # what a lease outlives the pod that held it


def in_cluster(config: TrainConfig, cluster: Cluster) -> TrainConfig:
    """`config` for pods: engines and verifiers by the names of their Services, files on claims.

    Raises:
        ConfigError: A name that Kubernetes does not take, a path that no claim holds, or a setting
            that pods cannot be told.
    """
    run = config.run.name
    problems = _problems(config)
    if problems:
        raise ConfigError("\n".join(problems))
    settings, engine = config.run, config.rollout.engine
    waits = cluster.grace_s + _PEER_S
    threads = cluster.cpus_per_rank if settings.device == "cpu" else 0
    return replace(
        config,
        run=replace(
            settings,
            folder=_on_claim(settings.folder or config.run.name),
            device=_device(settings.device),
            metrics_address=EVERYWHERE,
            # A new pod may be there before the old one has written its last checkpoint.
            lease_wait_s=max(settings.lease_wait_s, float(waits)),
            threads_per_rank=settings.threads_per_rank or threads,
        ),
        model=replace(config.model, path=_on_claim(config.model.path)),
        rollout=replace(
            config.rollout,
            workers=_workers(config.rollout.workers, cluster),
            engine=replace(
                engine,
                device=_device(engine.device),
                # An engine's pod has GPUs of its own, also where trainer and engines share some.
                gpus=(),
                mem_fraction=0.0 if engine.gpus else engine.mem_fraction,
                urls=(f"dns+http://{names.engines(run)}:{names.ENGINE_PORT}",),
                host=EVERYWHERE,
                port=0,
            ),
        ),
        judge=replace(
            config.judge,
            where="endpoints",
            endpoints=(f"dns+http://{names.verifiers(run)}:{names.VERIFIER_PORT}",),
            token_file=TOKEN_FILE,
            workers=max(config.judge.workers or 0, cluster.verifiers * cluster.verifier_workers),
        ),
    )


def _workers(asked: WorkerConfig, cluster: Cluster) -> WorkerConfig:
    """Those of pods of their own, where there are such; else the trainer's."""
    if not cluster.rollout_workers:
        return asked
    return replace(asked, count=0, listen_address=EVERYWHERE, listen_port=names.WORKER_PORT)


def claims_of(config: TrainConfig) -> list[str]:
    """The folders in pods, by claim, that a configuration from `in_cluster` uses."""
    paths = [config.model.path, config.task.path or "", config.validation.path or ""]
    return [RUNS, *(folder for folder in (MODELS, DATA) if any(_below(p, folder) for p in paths))]


def _device(asked: Literal["auto", "cuda", "cpu"]) -> Literal["cuda", "cpu"]:
    """Settled when rendering: pods are given GPUs, or none, whatever this machine has."""
    return "cpu" if asked == "cpu" else "cuda"


def _on_claim(path: str) -> str:
    """A relative path lies with the runs."""
    return path if path.startswith("/") else str(PurePosixPath(RUNS) / path)


def _below(path: str, folder: str) -> bool:
    where = PurePosixPath(path)
    return where.is_relative_to(folder) and ".." not in where.parts


def _problems(config: TrainConfig) -> list[str]:
    problems = []
    if not is_dns_label(config.run.name) or len(config.run.name) > names.LONGEST:
        problems.append(
            f"run.name={config.run.name}: it names the objects in the cluster: lower-case letters, "
            f"digits and dashes, at most {names.LONGEST}"
        )
    paths = {"model.path": config.model.path, "run.folder": config.run.folder or ""}
    held = ", ".join(f"{folder} (claim {name})" for folder, name in CLAIMS.items())
    for key, path in paths.items():
        allowed = (RUNS,) if key == "run.folder" else (RUNS, MODELS)
        if not any(_below(_on_claim(path), folder) for folder in allowed):
            problems.append(
                f"{key}={path}: pods see {held}; put it below {' or '.join(allowed)}, or give a "
                f"relative path, which lies below {RUNS}"
            )
    for key, data in (("task.path", config.task.path), ("validation.path", config.validation.path)):
        if data and not any(_below(data, folder) for folder in (DATA, RUNS)):
            problems.append(f"{key}={data}: pods see {held}; put it below {DATA}")
    if not config.run.metrics_port:
        problems.append("run.metrics_port=0: a pod without metrics cannot be watched; leave it")
    return problems
