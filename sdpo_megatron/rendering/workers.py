"""Rollout workers: a StatefulSet of `sdpo worker`, which finds the trainer by the run folder.

Its pods keep their names, so that their series in Prometheus stay the same ones; and they stay when
the trainer's pod goes, and join the next.
"""

from __future__ import annotations

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.rendering import names
from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.in_cluster import claims_of
from sdpo_megatron.rendering.pods import (
    RUNS,
    Manifest,
    claim,
    container,
    disruption_budget,
    headless_service,
    labels,
    pod,
    resources,
    scratch,
    spread,
    stateful_set,
    token,
)
from sdpo_megatron.rollout.config import WORKING

COMPONENT = "worker"
_CPUS, _GIB = 1, 2  # Python, a tokenizer, the groups that it makes; its verifiers are elsewhere
_STOP_S = 30
_STATE = "/tmp/worker"
_SILENCE_S = 60


def workers(config: TrainConfig, cluster: Cluster) -> list[Manifest]:
    """Service, StatefulSet and disruption budget; nothing without any. `config` is from
    `in_cluster`."""
    if not cluster.rollout_workers:
        return []
    run = config.run.name
    name, tags = names.workers(run), labels(run, COMPONENT)
    service = headless_service(name, cluster.namespace, tags, {}, all_pods=True)
    pods = stateful_set(
        name, cluster.namespace, tags, cluster.rollout_workers, _pod(config, cluster)
    )
    return [service, pods, disruption_budget(name, cluster.namespace, tags)]


def _probe(test: str, **how: int) -> Manifest:
    return {"exec": {"command": ["sh", "-c", test]}, "timeoutSeconds": 5, **how}


def _pod(config: TrainConfig, cluster: Cluster) -> Manifest:
    tags = labels(config.run.name, COMPONENT)
    folders = [
        scratch(1),
        *(claim(path, read_only=path != RUNS) for path in claims_of(config)),
        token(),
    ]
    main = container(
        COMPONENT,
        cluster.trainer_image,
        folders,
        command=["tini", "--", "sdpo"],
        args=["worker", str(config.run.folder), "--patience", "inf", "--state", _STATE],
        startupProbe=_probe(f"[ -f {_STATE} ]", periodSeconds=1, failureThreshold=120),
        # Ready when it works for a trainer; alive while its loop turns.
        readinessProbe=_probe(f"grep -q {WORKING} {_STATE}", periodSeconds=5, failureThreshold=1),
        livenessProbe=_probe(
            f"[ $(($(date +%s) - $(stat -c %Y {_STATE}))) -lt {_SILENCE_S} ]",
            periodSeconds=20,
            failureThreshold=3,
        ),
        resources=resources(_CPUS, _GIB),
    )
    return pod(
        tags,
        [main],
        folders,
        account="sdpo-worker",
        priority="sdpo-worker",
        terminationGracePeriodSeconds=_STOP_S,
        topologySpreadConstraints=spread(tags),
    )
