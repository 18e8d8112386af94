"""The verifiers: a Deployment of stateless services, and a Service with one address for each."""

from __future__ import annotations

from dataclasses import replace

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.fields.wording import shown
from sdpo_megatron.judging.offline.config import OfflineConfig
from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.rendering import names
from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.overrides import overrides
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
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.verifiers.base import VERIFIERS
from sdpo_megatron.verifiers.code import CodeVerifierConfig

COMPONENT = "verifier"
RESTRICTED_LAYERS = ("landlock", "seccomp", "rlimits", "accounting")
"""What the sandbox has in a restricted pod, which is refused user namespaces."""
LAYERS_KEY = "sandbox.minimum_layers"
_DRAIN_S = 30.0
_ITEM_CACHE_MIB = 128


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


def restricted(sandbox: SandboxConfig) -> SandboxConfig:
    """`sandbox` with a restricted pod's layers as its minimum, unless another was asked for."""
    asked = sandbox.minimum_layers != SandboxConfig().minimum_layers
    return sandbox if asked else replace(sandbox, minimum_layers=RESTRICTED_LAYERS)


def arguments(command: str, config: ServiceConfig | OfflineConfig) -> list[str]:
    """Of ``sdpo verify COMMAND``, for `config`. The layers come first: components find them by
    their place."""
    words = overrides(config)
    layers = words.pop(LAYERS_KEY, shown(config.sandbox.minimum_layers))
    rest = [f"{key}={value}" for key, value in words.items()]
    return ["verify", command, f"{LAYERS_KEY}={layers}", *rest]


def worker_resources(workers: int, code: CodeVerifierConfig, cache_mib: int = 0) -> Manifest:
    """Of a pod with so many workers. CPUs are limited here: what runs is not ours."""
    # An item takes up to four times its JSON; beside an attempt there are its judge and a worker.
    mib = 1024 + 4 * cache_mib + workers * (code.memory_mib + 512)
    found = resources(workers, -(-mib // 1024))
    found["limits"]["cpu"] = str(workers + 1)
    return found


def _service(config: TrainConfig, cluster: Cluster) -> ServiceConfig:
    own = config.task.verifier
    offered = ServiceConfig().verifiers
    return ServiceConfig(
        port=names.VERIFIER_PORT,
        workers=cluster.verifier_workers,
        verifiers=offered if own is None or own in VERIFIERS else (*offered, own),
        token_file=TOKEN_FILE,
        drain_s=_DRAIN_S,
        item_cache_mib=_ITEM_CACHE_MIB,
        cpu_limit_s=config.judge.cpu_limit_s,
        memory_mib=config.judge.memory_mib,
        code=config.judge.code,
        sandbox=restricted(config.sandbox),
    )


def _pod(config: TrainConfig, cluster: Cluster) -> Manifest:
    tags = labels(config.run.name, COMPONENT)
    folders = [scratch(1), token()]
    service = _service(config, cluster)
    ready = {"httpGet": {"path": "/readyz", "port": "http"}, "timeoutSeconds": 2}
    lives = {"httpGet": {"path": "/healthz", "port": "http"}, "timeoutSeconds": 5}
    main = container(
        COMPONENT,
        cluster.verifier_image,
        folders,
        command=["tini", "--", "sdpo"],
        args=arguments("serve", service),
        ports=[{"name": "http", "containerPort": names.VERIFIER_PORT}],
        startupProbe={**ready, "periodSeconds": 1, "failureThreshold": 120},
        readinessProbe={**ready, "periodSeconds": 2, "failureThreshold": 2},
        livenessProbe={**lives, "periodSeconds": 10, "failureThreshold": 3},
        resources=worker_resources(service.workers, service.code, service.item_cache_mib),
    )
    return pod(
        tags,
        [main],
        folders,
        account="sdpo-verifier",
        priority="sdpo-verifier",
        terminationGracePeriodSeconds=round(_DRAIN_S) + 15,
        topologySpreadConstraints=spread(tags),
    )
