"""Names and ports in the cluster, all of them made from the name of the run."""

from __future__ import annotations

ENGINE_PORT = 30000
VERIFIER_PORT = 9401
WORKER_PORT = 9402
RENDEZVOUS_PORT = 29500
LONGEST = 40
"""Of a run's name: pods' names are longer by up to 20, and end at 63."""


def trainer(run: str) -> str:
    """The Job, and its Service."""
    return f"{run}-trainer"


def engines(run: str) -> str:
    """The StatefulSet of the engines, and its Service."""
    return f"{run}-engine"


def verifiers(run: str) -> str:
    """The Deployment of the verifiers, and its Service."""
    return f"{run}-verifier"


def workers(run: str) -> str:
    """The StatefulSet of the rollout workers, and its Service."""
    return f"{run}-worker"


def config_map(run: str) -> str:
    """The run's configuration."""
    return f"{run}-config"
