"""The verifiers: a Deployment of stateless services, and a Service with one address for each."""

from __future__ import annotations

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.rendering import names
from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.pods import (
    TOKEN_FILE,
    Manifest,
    container,
    disruption_budget,
    headless_service,
    labels,
    named,
    pod,
    resources,
    scratch,
    spread,
    token,
)
from sdpo_megatron.verifiers.base import VERIFIERS

COMPONENT = "verifier"
RESTRICTED_LAYERS = ("landlock", "seccomp", "rlimits", "accounting")
"""What the sandbox has in a restricted pod, which is refused user namespaces."""
_DRAIN_S = 30
_MIB_OF_SERVICE, _MIB_PER_WORKER = (
    1024,
    1024,
)  # a run may use 512 MiB, its judge and worker the rest


def verifiers(config: TrainConfig, cluster: Cluster) -> list[Manifest]:
    """Service, Deployment and disruption budget."""
    run = config.run.name
    name, tags = names.verifiers(run), labels(run, COMPONENT)
    ports = {"http": names.VERIFIER_PORT}
    service = headless_service(name, cluster.namespace, tags, ports, all_pods=False)
    deployment = named("apps/v1", "Deployment", name, cluster.namespace, tags)
    deployment["spec"] = {
        "replicas": cluster.verifiers,
        "selector": {"matchLabels": tags},
        "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
        "template": _pod(config, cluster),
    }
    return [service, deployment, disruption_budget(name, cluster.namespace, tags)]


def layer_flags() -> list[str]:
    """The minimum of isolation without which nothing is judged."""
    return [word for layer in RESTRICTED_LAYERS for word in ("--minimum-layer", layer)]


def worker_resources(workers: int) -> Manifest:
    """Of a pod with so many workers. CPUs are limited here: what runs is not ours."""
    found = resources(workers, -(-(_MIB_OF_SERVICE + workers * _MIB_PER_WORKER) // 1024))
    found["limits"]["cpu"] = str(workers + 1)
    return found


def _pod(config: TrainConfig, cluster: Cluster) -> Manifest:
    tags = labels(config.run.name, COMPONENT)
    folders = [scratch(1), token()]
    own = config.task.verifier
    offered = ["--verifier", own] if own is not None and own not in VERIFIERS else []
    ready = {"httpGet": {"path": "/readyz", "port": "http"}, "timeoutSeconds": 2}
    lives = {"httpGet": {"path": "/healthz", "port": "http"}, "timeoutSeconds": 5}
    main = container(
        COMPONENT,
        cluster.verifier_image,
        folders,
        command=["tini", "--", "sdpo"],
        args=[
            "verify",
            "serve",
            *layer_flags(),  # first: components find them by their place
            *("--port", str(names.VERIFIER_PORT)),
            *("--workers", str(cluster.verifier_workers)),
            *("--token-file", TOKEN_FILE),
            *("--drain-s", str(_DRAIN_S)),
            *offered,
        ],
        ports=[{"name": "http", "containerPort": names.VERIFIER_PORT}],
        startupProbe={**ready, "periodSeconds": 1, "failureThreshold": 120},
        readinessProbe={**ready, "periodSeconds": 2, "failureThreshold": 2},
        livenessProbe={**lives, "periodSeconds": 10, "failureThreshold": 3},
        resources=worker_resources(cluster.verifier_workers),
    )
    return pod(
        tags,
        [main],
        folders,
        account="sdpo-verifier",
        priority="sdpo-verifier",
        terminationGracePeriodSeconds=_DRAIN_S + 15,
        topologySpreadConstraints=spread(tags),
    )
