"""The policy itself: a pod that passes, and for each rule pods that break it and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.rendering.restricted import RULES, pods, violations

Break = Callable[[dict[str, Any], dict[str, Any]], Any]
"""Changes a good pod's spec and its container so that one rule is broken."""

_PROBE = {"httpGet": {"path": "/", "port": "http"}}
_GOOD: dict[str, Any] = {
    "kind": "Deployment",
    "metadata": {"name": "good"},
    "spec": {
        "template": {
            "metadata": {"annotations": {}},
            "spec": {
                "serviceAccountName": "own",
                "automountServiceAccountToken": False,
                "priorityClassName": "low",
                "securityContext": {
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "main",
                        "image": "registry:5000/a/b:1",
                        "resources": {
                            "requests": {"cpu": "1", "memory": "1Gi"},
                            "limits": {"memory": "1Gi"},
                        },
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "startupProbe": dict(_PROBE),
                        "readinessProbe": dict(_PROBE),
                        "livenessProbe": dict(_PROBE),
                    }
                ],
                "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
            },
        },
    },
}
_HOST = {"httpGet": {"path": "/", "port": 1, "host": "10.0.0.1"}}
_TOKEN = {"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}


def _bad_init(spec: dict[str, Any], main: dict[str, Any]) -> None:
    spec["initContainers"] = [copy.deepcopy(main)]
    del spec["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"]


BROKEN: list[tuple[str, Break]] = [
    ("host namespaces", lambda spec, _: spec.update(hostNetwork=True)),
    ("host namespaces", lambda spec, _: spec.update(hostPID=True)),
    ("host namespaces", lambda spec, _: spec.update(hostIPC=True)),
    ("host process", lambda spec, _: spec["securityContext"].update(windowsOptions={"hostProcess": True})),
    ("privileged", lambda _, main: main["securityContext"].update(privileged=True)),
    ("privilege escalation", lambda _, main: main["securityContext"].pop("allowPrivilegeEscalation")),
    ("privilege escalation", _bad_init),
    ("capabilities", lambda _, main: main["securityContext"].pop("capabilities")),
    ("capabilities", lambda _, main: main["securityContext"]["capabilities"].update(add=["SYS_ADMIN"])),
    ("volume types", lambda spec, _: spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    ("volume types", lambda spec, _: spec["volumes"].append({"name": "x", "nfs": {"path": "/"}})),
    ("host ports", lambda _, main: main.update(ports=[{"containerPort": 1, "hostPort": 1}])),
    ("host of probes", lambda _, main: main.update(livenessProbe=_HOST)),
    ("host of probes", lambda _, main: main.update(lifecycle={"preStop": _HOST})),
    ("AppArmor", lambda spec, _: spec["securityContext"].update(appArmorProfile={"type": "Unconfined"})),
    ("SELinux", lambda spec, _: spec["securityContext"].update(seLinuxOptions={"type": "spc_t"})),
    ("SELinux", lambda _, main: main["securityContext"].update(seLinuxOptions={"role": "system_r"})),
    ("proc mount", lambda _, main: main["securityContext"].update(procMount="Unmasked")),
    ("seccomp", lambda spec, _: spec["securityContext"].pop("seccompProfile")),
    ("seccomp", lambda _, main: main["securityContext"].update(seccompProfile={"type": "Unconfined"})),
    ("sysctls", lambda spec, _: spec["securityContext"].update(sysctls=[{"name": "kernel.msgmax"}])),
    ("runs as non-root", lambda spec, _: spec["securityContext"].pop("runAsNonRoot")),
    ("runs as non-root", lambda _, main: main["securityContext"].update(runAsNonRoot=False)),
    ("user 0", lambda _, main: main["securityContext"].update(runAsUser=0)),
    ("read-only root", lambda _, main: main["securityContext"].pop("readOnlyRootFilesystem")),
    ("no token", lambda spec, _: spec.pop("automountServiceAccountToken")),
    ("no token", lambda spec, _: spec["volumes"].append({"name": "x", **_TOKEN})),
    ("own account", lambda spec, _: spec.update(serviceAccountName="default")),
    ("resources", lambda _, main: main["resources"]["requests"].pop("cpu")),
    ("resources", lambda _, main: main["resources"]["limits"].pop("memory")),
    ("pinned image", lambda _, main: main.update(image="registry:5000/a/b")),
    ("pinned image", lambda _, main: main.update(image="a:latest")),
    ("bounded scratch", lambda spec, _: spec["volumes"].append({"name": "x", "emptyDir": {}})),
    ("probes", lambda _, main: main.pop("startupProbe")),
    ("priority", lambda spec, _: spec.pop("priorityClassName")),
]  # fmt: skip


def test_a_good_pod_passes() -> None:
    (pod,) = pods([_GOOD])
    assert violations(pod) == {}


@pytest.mark.parametrize(("rule", "spoil"), BROKEN, ids=[rule for rule, _ in BROKEN])
def test_a_broken_rule_is_named(rule: str, spoil: Break) -> None:
    broken = copy.deepcopy(_GOOD)
    spec = broken["spec"]["template"]["spec"]
    spoil(spec, spec["containers"][0])
    (pod,) = pods([broken])
    assert list(violations(pod)) == [rule]


def test_an_unconfined_profile_in_an_annotation_is_seen() -> None:
    broken = copy.deepcopy(_GOOD)
    key = "container.apparmor.security.beta.kubernetes.io/main"
    broken["spec"]["template"]["metadata"]["annotations"] = {key: "unconfined"}
    assert list(violations(pods([broken])[0])) == ["AppArmor"]


def test_each_rule_has_a_pod_that_breaks_it() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)


def test_a_pod_in_a_job_set_is_seen() -> None:
    inner = {"template": {"spec": {"template": _GOOD["spec"]["template"]}}}
    job_set = {"kind": "JobSet", "metadata": {"name": "x"}, "spec": {"replicatedJobs": [inner]}}
    assert [pod.owner for pod in pods([job_set])] == ["JobSet x"]
