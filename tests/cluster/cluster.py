"""The real cluster of `make cluster-test`, by the command that SDPO_CLUSTER names.

The command brings one up and takes it down, and speaks to it:

    $SDPO_CLUSTER up | down | kubectl ARGS... | ctr images import FILE
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

VARIABLE = "SDPO_CLUSTER"
FOLDER_VARIABLE = "SDPO_CLUSTER_FOLDER"
NAMESPACE = "sdpo"


def cluster_command() -> str:
    """What SDPO_CLUSTER says; "" where there is no cluster."""
    return os.environ.get(VARIABLE, "")


def folder() -> Path:
    """Where images and run folders go; kept, so that a second time is faster."""
    return Path(os.environ.get(FOLDER_VARIABLE, "/var/tmp/sdpo-cluster-test"))


def call(*words: str, text: str | None = None, timeout_s: float = 120.0) -> str:
    """Run the cluster's command and return what it prints."""
    done = subprocess.run(
        [cluster_command(), *words],
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def kubectl(*words: str, text: str | None = None) -> str:
    """kubectl in the namespace of the test."""
    return call("kubectl", "-n", NAMESPACE, *words, text=text)


def apply(manifests: list[dict[str, Any]]) -> None:
    """kubectl apply."""
    kubectl("apply", "-f", "-", text=yaml.safe_dump_all(manifests))


def objects(kind: str, selector: str = "") -> list[dict[str, Any]]:
    """Those of `kind`, as the API server knows them."""
    chosen = ["-l", selector] if selector else []
    items: list[dict[str, Any]] = json.loads(kubectl("get", kind, "-o", "json", *chosen))["items"]
    return items


def pods(component: str) -> list[dict[str, Any]]:
    """The pods of one component, by age."""
    found = objects("pods", f"app.kubernetes.io/component={component}")
    return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def exit_code(pod: dict[str, Any]) -> int | None:
    """Of the pod's container; None while it runs."""
    statuses = pod["status"].get("containerStatuses", [])
    ended = statuses[0]["state"].get("terminated") if statuses else None
    return None if ended is None else int(ended["exitCode"])


def wait(what: str, met: Callable[[], Any], limit_s: float, every_s: float = 1.0) -> Any:
    """Poll until `met` gives something true, and return that."""
    end = time.monotonic() + limit_s
    while not (found := met()):
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}\n{_state()}"
        time.sleep(every_s)
    return found


def _state() -> str:
    said = kubectl("get", "pods,jobs", "-o", "wide")
    for component in ("trainer", "worker", "engine", "verifier"):
        for pod in pods(component):
            name = pod["metadata"]["name"]
            log = subprocess.run(
                [cluster_command(), "kubectl", "-n", NAMESPACE, "logs", "--tail=15", name],
                capture_output=True,
                text=True,
            )
            said += f"\n--- {name}\n{log.stdout}{log.stderr}"
    return said


def log(pod: dict[str, Any]) -> str:
    """Of its container; "" before it has started."""
    try:
        return kubectl("logs", pod["metadata"]["name"])
    except AssertionError:
        return ""


def inside(pod: dict[str, Any], *command: str, text: str | None = None) -> str:
    """What a command in the pod prints.

    Raises:
        AssertionError: It failed.
    """
    stdin = [] if text is None else ["-i"]
    return kubectl("exec", *stdin, pod["metadata"]["name"], "--", *command, text=text)


def restarted_or_failed(found: list[dict[str, Any]]) -> list[str]:
    """The names of the pods that are not in their first life."""
    return [
        pod["metadata"]["name"]
        for pod in found
        if pod["status"]["phase"] == "Failed"
        or any(s["restartCount"] for s in pod["status"].get("containerStatuses", []))
    ]


def conditions(job: str) -> list[str]:
    """Those of a Job that hold."""
    found = json.loads(kubectl("get", "job", job, "-o", "json"))
    return [c["type"] for c in found["status"].get("conditions", []) if c["status"] == "True"]
