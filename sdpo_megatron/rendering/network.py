"""Who may talk to whom in a run; everything else is denied (`shared.deny_all`).

    trainer ──► engines, verifiers, DNS          trainer ◄──► trainer, where it has several pods
    workers ──► trainer, engines, verifiers, DNS, where there are such pods
    Prometheus ──► trainer, engines, verifiers

Engines and verifiers open no connection at all.
"""

from __future__ import annotations

from collections.abc import Mapping

from sdpo_megatron.config import TrainConfig
from sdpo_megatron.rendering import engines, names, trainer, verifiers, workers
from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.pods import Manifest, labels, named
from sdpo_megatron.rendering.size import Size

_DNS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}


def network(config: TrainConfig, cluster: Cluster, size: Size) -> list[Manifest]:
    """A policy for each kind of pod."""
    run = config.run.name
    of_trainer, of_engine, of_verifier, of_worker = (
        labels(run, part.COMPONENT) for part in (trainer, engines, verifiers, workers)
    )
    scraper = {
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": cluster.monitoring_namespace}
        },
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
    }
    trainers, metrics = _pods(of_trainer), config.run.metrics_port
    # Every port: those of the ranks' own connections (NCCL, gloo) are chosen by the system.
    several = [trainers] if size.nodes > 1 else []
    rolling = [_pods(of_worker)] if cluster.rollout_workers else []
    outward = [
        _rule("to", [_pods(of_engine)], names.ENGINE_PORT),
        _rule("to", [_pods(of_verifier)], names.VERIFIER_PORT),
        {"to": [_DNS], "ports": [{"protocol": kind, "port": 53} for kind in ("UDP", "TCP")]},
    ]
    policies = [
        _policy(
            names.trainer(run),
            cluster.namespace,
            of_trainer,
            ingress=[
                _rule("from", [scraper], metrics),
                *(_rule("from", [peer], names.WORKER_PORT) for peer in rolling),
                *({"from": [peer]} for peer in several),
            ],
            egress=[*outward, *({"to": [peer]} for peer in several)],
        ),
        _policy(
            names.engines(run),
            cluster.namespace,
            of_engine,
            ingress=[_rule("from", [trainers, *rolling, scraper], names.ENGINE_PORT)],
        ),
        _policy(
            names.verifiers(run),
            cluster.namespace,
            of_verifier,
            ingress=[_rule("from", [trainers, *rolling, scraper], names.VERIFIER_PORT)],
        ),
    ]
    if rolling:
        to_trainer = _rule("to", [trainers], names.WORKER_PORT)
        policies.append(
            _policy(
                names.workers(run),
                cluster.namespace,
                of_worker,
                ingress=[],
                egress=[to_trainer, *outward],
            )
        )
    return policies


def _policy(
    name: str,
    namespace: str,
    tags: Mapping[str, str],
    *,
    ingress: list[Manifest],
    egress: list[Manifest] | None = None,
) -> Manifest:
    return named("networking.k8s.io/v1", "NetworkPolicy", name, namespace, tags) | {
        "spec": {
            "podSelector": {"matchLabels": dict(tags)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress or [],
        }
    }


def _pods(tags: Mapping[str, str]) -> Manifest:
    return {"podSelector": {"matchLabels": dict(tags)}}


def _rule(direction: str, peers: list[Manifest], port: int) -> Manifest:
    return {direction: peers, "ports": [{"protocol": "TCP", "port": port}]}
