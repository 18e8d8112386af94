"""What the controller of Indexed Jobs would do, for a cluster that is too old to have one.

A STAND-IN: each index becomes a Job of its own, whose pod has the name, the number and the
annotation that an Indexed Job gives to it. What is lost is what one Job knows of all its pods:
`podReplacementPolicy` and `podFailurePolicy` (exit codes are looked at by the test).
"""

from __future__ import annotations

import copy
from typing import Any

_OF_INDEXED = ("completionMode", "podReplacementPolicy", "podFailurePolicy", "backoffLimitPerIndex")
INDEX = "batch.kubernetes.io/job-completion-index"


def plain_jobs(job: dict[str, Any]) -> list[dict[str, Any]]:
    """A Job for each completion of an Indexed one."""
    return [_one(job, index) for index in range(job["spec"]["completions"])]


def _one(job: dict[str, Any], index: int) -> dict[str, Any]:
    made = copy.deepcopy(job)
    name = job["metadata"]["name"]
    made["metadata"]["name"] = f"{name}-{index}"
    spec = made["spec"]
    spec |= {"completions": 1, "parallelism": 1}
    for key in _OF_INDEXED:
        spec.pop(key, None)
    template = spec["template"]
    template["metadata"].setdefault("annotations", {})[INDEX] = str(index)
    template["metadata"]["labels"]["batch.kubernetes.io/job-name"] = name
    template["spec"]["hostname"] = f"{name}-{index}"
    for container in template["spec"]["containers"]:
        number = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
        # Before the others: a variable may name those that stand before it.
        container["env"] = [number, *container.get("env", [])]
    return made
