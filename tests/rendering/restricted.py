"""The policy that every pod of ours passes: "restricted" of Kubernetes' pod security standards, and
what else keeps a pod from harm. Written from the standard, apart from the renderer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@dataclass(frozen=True)
class Pod:
    """A pod template, and what it belongs to."""

    owner: str
    kind: str
    spec: dict[str, Any]
    annotations: dict[str, str]

    @property
    def containers(self) -> list[dict[str, Any]]:
        keys = ("initContainers", "containers", "ephemeralContainers")
        return [container for key in keys for container in self.spec.get(key, [])]

    def security(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The pod's security context, and each container's."""
        yield "pod", self.spec.get("securityContext", {})
        for container in self.containers:
            yield container["name"], container.get("securityContext", {})


def pods(manifests: list[dict[str, Any]]) -> list[Pod]:
    """Of every workload, one in a JobSet included."""
    found = []
    for manifest in manifests:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        jobs = [job["template"] for job in manifest.get("spec", {}).get("replicatedJobs", [])]
        for workload in jobs or [manifest]:
            template = workload.get("spec", {}).get("template")
            if template:
                annotations = template.get("metadata", {}).get("annotations", {})
                found.append(Pod(f"{kind} {name}", kind, template["spec"], annotations))
        if kind == "Pod":
            annotations = manifest["metadata"].get("annotations", {})
            found.append(Pod(f"Pod {name}", kind, manifest["spec"], annotations))
    return found


def violations(pod: Pod) -> dict[str, list[str]]:
    """What is wrong, by rule; empty for a pod that passes."""
    found = {name: list(rule(pod)) for name, rule in RULES.items()}
    return {name: problems for name, problems in found.items() if problems}


def _host_namespaces(pod: Pod) -> Iterator[str]:
    yield from (k for k in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(k))


def _host_process(pod: Pod) -> Iterator[str]:
    for who, context in pod.security():
        if context.get("windowsOptions", {}).get("hostProcess"):
            yield who


def _privileged(pod: Pod) -> Iterator[str]:
    yield from (who for who, context in pod.security() if context.get("privileged"))


def _escalation(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            yield container["name"]


def _capabilities(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        held = container.get("securityContext", {}).get("capabilities", {})
        if "ALL" not in held.get("drop", []):
            yield f"{container['name']} does not drop ALL"
        if set(held.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{container['name']} adds {held['add']}"


def _volume_types(pod: Pod) -> Iterator[str]:
    for volume in pod.spec.get("volumes", []):
        if not set(volume) - {"name"} <= _VOLUMES:
            yield volume["name"]


def _host_ports(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        yield from (str(p) for p in container.get("ports", []) if p.get("hostPort"))


def _host_of_probes(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        hooks = [container.get(probe, {}) for probe in _PROBES]
        hooks += list(container.get("lifecycle", {}).values())
        for hook in hooks:
            if any(hook.get(kind, {}).get("host") for kind in ("httpGet", "tcpSocket")):
                yield container["name"]


def _app_armor(pod: Pod) -> Iterator[str]:
    for key, value in pod.annotations.items():
        local = value == "runtime/default" or value.startswith("localhost/")
        if key.startswith("container.apparmor.security.beta.kubernetes.io/") and not local:
            yield f"{key}={value}"
    for who, context in pod.security():
        if context.get("appArmorProfile", {}).get("type") == "Unconfined":
            yield who


def _selinux(pod: Pod) -> Iterator[str]:
    for who, context in pod.security():
        options = context.get("seLinuxOptions", {})
        if options.get("type", "") not in _SELINUX_TYPES or options.keys() & {"user", "role"}:
            yield who


def _proc_mount(pod: Pod) -> Iterator[str]:
    yield from (who for who, c in pod.security() if c.get("procMount", "Default") != "Default")


def _seccomp(pod: Pod) -> Iterator[str]:
    of_pod = pod.spec.get("securityContext", {}).get("seccompProfile")
    for container in pod.containers:
        own = container.get("securityContext", {}).get("seccompProfile", of_pod) or {}
        if own.get("type") not in ("RuntimeDefault", "Localhost"):
            yield container["name"]


def _sysctls(pod: Pod) -> Iterator[str]:
    for entry in pod.spec.get("securityContext", {}).get("sysctls", []):
        if entry["name"] not in _SYSCTLS:
            yield entry["name"]


def _non_root(pod: Pod) -> Iterator[str]:
    of_pod = pod.spec.get("securityContext", {}).get("runAsNonRoot")
    for container in pod.containers:
        if container.get("securityContext", {}).get("runAsNonRoot", of_pod) is not True:
            yield container["name"]


def _user(pod: Pod) -> Iterator[str]:
    yield from (who for who, context in pod.security() if context.get("runAsUser") == 0)


def _read_only_root(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield container["name"]


def _no_token(pod: Pod) -> Iterator[str]:
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken"
    for volume in pod.spec.get("volumes", []):
        sources = volume.get("projected", {}).get("sources", [])
        if any("serviceAccountToken" in source for source in sources):
            yield volume["name"]


def _own_account(pod: Pod) -> Iterator[str]:
    if pod.spec.get("serviceAccountName", "default") == "default":
        yield "serviceAccountName"


def _resources(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        wanted = container.get("resources", {})
        for kind, what in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if what not in wanted.get(kind, {}):
                yield f"{container['name']}: {kind} of {what}"


def _pinned(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        _, colon, version = container["image"].rpartition("/")[2].partition(":")
        if "@sha256:" not in container["image"] and (not colon or version == "latest"):
            yield container["image"]


def _bounded_scratch(pod: Pod) -> Iterator[str]:
    for volume in pod.spec.get("volumes", []):
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield volume["name"]


def _probed(pod: Pod) -> Iterator[str]:
    if pod.kind in ("Deployment", "StatefulSet"):
        for container in pod.spec["containers"]:
            yield from (probe for probe in _PROBES if probe not in container)


def _priority(pod: Pod) -> Iterator[str]:
    if not pod.spec.get("priorityClassName"):
        yield "priorityClassName"


RULES: dict[str, Callable[[Pod], Iterator[str]]] = {
    "host namespaces": _host_namespaces,
    "host process": _host_process,
    "privileged": _privileged,
    "privilege escalation": _escalation,
    "capabilities": _capabilities,
    "volume types": _volume_types,
    "host ports": _host_ports,
    "host of probes": _host_of_probes,
    "AppArmor": _app_armor,
    "SELinux": _selinux,
    "proc mount": _proc_mount,
    "seccomp": _seccomp,
    "sysctls": _sysctls,
    "runs as non-root": _non_root,
    "user 0": _user,
    # Beyond the standard:
    "read-only root": _read_only_root,
    "no token": _no_token,
    "own account": _own_account,
    "resources": _resources,
    "pinned image": _pinned,
    "bounded scratch": _bounded_scratch,
    "probes": _probed,
    "priority": _priority,
}
