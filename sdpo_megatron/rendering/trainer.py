"""The trainer: an Indexed Job, a pod for each machine, and a Service by which ranks find the first.

It has no probes: only the first pod serves metrics, and a run that hangs ends by its own time-outs
(run.peer_timeout_s, run.collective_timeout_s), with a message instead of a kill.
"""

from __future__ import annotations

from typing import Any

from sdpo_megatron.config import TrainConfig, printed
from sdpo_megatron.exit_codes import STOPPED, USER_ERROR
from sdpo_megatron.rendering import names
from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.in_cluster import claims_of
from sdpo_megatron.rendering.pods import (
    RUNS,
    Folder,
    Manifest,
    claim,
    container,
    headless_service,
    labels,
    named,
    pod,
    resources,
    scratch,
    shared_memory,
    token,
)
from sdpo_megatron.rendering.size import Size

COMPONENT = "trainer"
CONFIG_FOLDER, CONFIG_KEY = "/etc/sdpo/run", "config.yaml"
_SCRATCH_GIB = 64
_CPU_SCRATCH_GIB = 4
_WORKER_GIB = 1  # a rollout worker beside the ranks: Python, a tokenizer, the groups that it makes


def trainer(config: TrainConfig, cluster: Cluster, size: Size) -> list[Manifest]:
    """ConfigMap, Service and Job. `config` is from `in_cluster`."""
    run = config.run.name
    tags = labels(run, COMPONENT)
    config_map = named("v1", "ConfigMap", names.config_map(run), cluster.namespace, tags)
    config_map["data"] = {CONFIG_KEY: printed(config)}
    ports = {"metrics": config.run.metrics_port}
    if size.nodes > 1:
        ports |= {"ranks": names.RENDEZVOUS_PORT, "launchers": names.RENDEZVOUS_PORT + 1}
    if config.rollout.workers.listen_port:
        ports |= {"workers": config.rollout.workers.listen_port}
    name = names.trainer(run)
    service = headless_service(name, cluster.namespace, tags, ports, all_pods=True)
    job = named("batch/v1", "Job", name, cluster.namespace, tags)
    job["spec"] = {
        "completionMode": "Indexed",
        "completions": size.nodes,
        "parallelism": size.nodes,
        "backoffLimit": cluster.backoff_limit * size.nodes,
        "podReplacementPolicy": "Failed",  # never two pods of one index
        "podFailurePolicy": {"rules": failure_rules(COMPONENT)},
        "template": _pod(config, cluster, size),
    }
    return [config_map, service, job]


def failure_rules(name: str) -> list[Manifest]:
    """What the exit code of container `name` means for its Job (see `exit_codes`)."""
    disrupted = {"type": "DisruptionTarget", "status": "True"}

    def on_exit(action: str, code: int) -> Manifest:
        codes = {"containerName": name, "operator": "In", "values": [code]}
        # The empty list: Kubernetes 1.28 declares it as required.
        return {"action": action, "onExitCodes": codes, "onPodConditions": []}

    return [
        on_exit("FailJob", USER_ERROR),
        on_exit("Ignore", STOPPED),
        {"action": "Ignore", "onPodConditions": [disrupted]},
    ]


def _pod(config: TrainConfig, cluster: Cluster, size: Size) -> Manifest:
    run = config.run.name
    ranks = size.ranks_per_node
    folders = [
        scratch(_SCRATCH_GIB if size.trainer_gpus else _CPU_SCRATCH_GIB),
        shared_memory(cluster.shm_gib),
        *(claim(path, read_only=path != RUNS) for path in claims_of(config)),
        Folder(CONFIG_FOLDER, {"configMap": {"name": names.config_map(run)}}, read_only=True),
        token(),
    ]
    ports = [{"name": "metrics", "containerPort": config.run.metrics_port}]
    main = container(
        COMPONENT,
        cluster.trainer_image,
        folders,
        environment=_place(run, size),
        command=["tini", "--", "sdpo"],
        args=["train", "--config", f"{CONFIG_FOLDER}/{CONFIG_KEY}"],
        ports=ports,
        resources=resources(
            ranks * cluster.cpus_per_rank,
            ranks * cluster.memory_gib_per_rank + _WORKER_GIB * config.rollout.workers.count,
            ranks if size.trainer_gpus else 0,
        ),
    )
    return pod(
        labels(run, COMPONENT),
        [main],
        folders,
        account="sdpo-trainer",
        priority="sdpo-trainer",
        gpus=size.trainer_gpus,
        subdomain=names.trainer(run),
        restartPolicy="Never",  # the Job makes a new pod; its policy of failures needs this
        terminationGracePeriodSeconds=cluster.grace_s,
    )


def _place(run: str, size: Size) -> dict[str, Any]:
    """The machine's place among several; its number is the Job's JOB_COMPLETION_INDEX."""
    if size.nodes == 1:
        return {}
    of_job = {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}}
    return {
        "NNODES": str(size.nodes),
        # From the label: a JobSet names its Jobs itself.
        "JOB_NAME": of_job,
        "MASTER_ADDR": f"$(JOB_NAME)-0.{names.trainer(run)}",
        "MASTER_PORT": str(names.RENDEZVOUS_PORT),
    }
