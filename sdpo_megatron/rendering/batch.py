"""Verdicts over a file: an Indexed Job whose pods each judge a shard (`sdpo verify batch`).

``completions`` is the number of shards and stays; ``parallelism`` is how many are judged at once
and may be changed while it runs.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from sdpo_megatron.fields import PositiveInt, Text, Word, refuse, settings
from sdpo_megatron.judging.offline.config import COUNT_VARIABLES, OfflineConfig
from sdpo_megatron.rendering import names
from sdpo_megatron.rendering.cluster import Cluster, is_dns_label
from sdpo_megatron.rendering.pods import (
    DATA,
    RUNS,
    Manifest,
    claim,
    container,
    labels,
    named,
    pod,
    scratch,
    spread,
)
from sdpo_megatron.rendering.trainer import failure_rules
from sdpo_megatron.rendering.verifiers import arguments, restricted, worker_resources
from sdpo_megatron.sandbox import SandboxConfig

COMPONENT = "verify-batch"
_STOP_S = 30
_RETRIES_OF_A_SHARD = 3


@settings
class Batch:
    """One file of responses to be judged."""

    name: Word = "verdicts"
    """Of the Job."""
    responses: Text
    """File of `sdpo verify batch`, below /runs or /data."""
    verdicts: Text
    """Folder for the verdicts, below /runs."""
    task: Text = ""
    """Layout of the questions that lines name by question_id; "" where lines hold all."""
    shards: PositiveInt = 100
    """Pods in all, each with its share of the lines."""
    parallelism: PositiveInt = 20
    """Pods at once."""

    def __post_init__(self) -> None:
        problems = []
        if not is_dns_label(self.name) or len(self.name) > names.LONGEST:
            problems.append(("name", f"must be a DNS label of at most {names.LONGEST} characters"))
        for key, folders in (("responses", (RUNS, DATA)), ("verdicts", (RUNS,))):
            path = PurePosixPath(getattr(self, key))
            if not any(path.is_relative_to(folder) for folder in folders):
                problems.append((key, f"must lie below {' or '.join(folders)}, the pods' claims"))
        refuse(self, problems)


def batch(wanted: Batch, cluster: Cluster) -> list[Manifest]:
    """The Job, and the policy that lets its pods talk to nobody."""
    tags = labels(wanted.name, COMPONENT)
    policy = named("networking.k8s.io/v1", "NetworkPolicy", wanted.name, cluster.namespace, tags)
    policy["spec"] = {
        "podSelector": {"matchLabels": tags},
        "policyTypes": ["Ingress", "Egress"],
    }
    job = named("batch/v1", "Job", wanted.name, cluster.namespace, tags)
    job["spec"] = {
        "completionMode": "Indexed",
        "completions": wanted.shards,
        "parallelism": min(wanted.parallelism, wanted.shards),
        "backoffLimitPerIndex": _RETRIES_OF_A_SHARD,
        "podReplacementPolicy": "Failed",  # two pods would write one shard
        "podFailurePolicy": {"rules": failure_rules(COMPONENT)},
        "template": _pod(wanted, cluster),
    }
    return [policy, job]


def claims_of(wanted: Batch) -> list[str]:
    """The folders in pods, by claim, that the Job uses."""
    return [RUNS, *([DATA] if PurePosixPath(wanted.responses).is_relative_to(DATA) else [])]


def _pod(wanted: Batch, cluster: Cluster) -> Manifest:
    tags = labels(wanted.name, COMPONENT)
    folders = [
        scratch(1),
        *(claim(path, read_only=path != RUNS) for path in claims_of(wanted)),
    ]
    offline = OfflineConfig(
        input=wanted.responses,
        output=wanted.verdicts,
        workers=cluster.verifier_workers,
        sandbox=restricted(SandboxConfig()),
    )
    main = container(
        COMPONENT,
        cluster.verifier_image,
        folders,
        environment={COUNT_VARIABLES[0]: str(wanted.shards)},
        command=["tini", "--", "sdpo"],
        args=[*arguments("batch", offline), *([f"task={wanted.task}"] if wanted.task else [])],
        resources=worker_resources(offline.workers, offline.code),
    )
    return pod(
        tags,
        [main],
        folders,
        account="sdpo-verifier",
        priority="sdpo-verifier",
        restartPolicy="Never",
        terminationGracePeriodSeconds=_STOP_S,
        topologySpreadConstraints=spread(tags),
    )
