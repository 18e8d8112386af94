"""Cluster: what manifests depend on beside the run's configuration."""

from __future__ import annotations

import re
from typing import Literal

from sdpo_megatron import __version__
from sdpo_megatron.fields import Count, PositiveInt, Seconds, Text, Word, refuse, settings

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PINNED = re.compile(r".+(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})")


@settings
class Cluster:
    """Where the pods run, and what one of them gets."""

    namespace: Word = "sdpo"
    """Namespace of everything."""
    trainer_image: Word = f"sdpo-trainer:{__version__}"
    """Image of the Dockerfile's target trainer, with a tag or digest."""
    serving_image: Word = f"sdpo-serving:{__version__}"
    """Image of the target serving."""
    verifier_image: Word = f"sdpo-verifier:{__version__}"
    """Image of the target verifier."""
    gpus_per_node: PositiveInt = 8
    """GPUs of one machine: the most that one pod can have."""
    cpus_per_rank: PositiveInt = 12
    """CPUs of each trainer rank, and of each GPU of an engine."""
    memory_gib_per_rank: PositiveInt = 120
    """Memory of the same."""
    shm_gib: PositiveInt = 16
    """Shared memory of one pod (/dev/shm). It is part of the pod's memory."""
    verifiers: PositiveInt = 2
    """Verifier pods."""
    verifier_workers: PositiveInt = 4
    """Verifications at once in each of them; each gets a CPU."""
    rollout_workers: Count = 0
    """Pods of rollout workers, one for each few engines. 0: the trainer's pod has its own."""
    checkpoint_s: Seconds = 120.0
    """How long a checkpoint takes, seconds: a pod that is stopped gets twice that, and a minute for
    the step that it is in."""
    backoff_limit: Count = 20
    """Failures of trainer pods, for each machine, before the run counts as failed. Neither a stop
    with a checkpoint nor an eviction counts."""
    storage_class: Text = ""
    """Storage class of the claims. "": the cluster's default."""
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """Of the claims; ReadWriteOnce does where everything runs on one machine."""
    runs_gib: PositiveInt = 1024
    """Size of the claim for run folders: checkpoints, published weights, attempts."""
    inputs_gib: PositiveInt = 512
    """Size of the claims for models and data."""
    monitoring_namespace: Word = "monitoring"
    """Namespace whose Prometheus may scrape."""

    def __post_init__(self) -> None:
        problems = [
            (name, "must be a DNS label: lower-case letters, digits and dashes")
            for name in ("namespace", "monitoring_namespace")
            if not _DNS_LABEL.fullmatch(getattr(self, name))
        ]
        problems += [
            (name, "must name one version: end it with a tag other than latest, or a digest")
            for name in ("trainer_image", "serving_image", "verifier_image")
            if not _PINNED.fullmatch(getattr(self, name))
        ]
        refuse(self, problems)

    @property
    def grace_s(self) -> int:
        """Seconds between SIGTERM and SIGKILL of a trainer pod."""
        return round(2 * self.checkpoint_s) + 60


def is_dns_label(name: str) -> bool:
    """Whether Kubernetes takes `name` as the first part of its objects' names."""
    return bool(_DNS_LABEL.fullmatch(name))
