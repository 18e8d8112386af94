"""Who may open a connection to whom, as NetworkPolicies say it: both ends must allow it.

Written from the API's reference, for selectors by label, as ours are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NAMESPACE = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class End:
    """A pod, or several alike.

    Attributes:
        name: For the test to speak of it.
        namespace: Where it runs.
        labels: Its labels.
    """

    name: str
    namespace: str
    labels: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, name: str, namespace: str, labels: Mapping[str, str]) -> End:
        return cls(name, namespace, tuple(sorted(labels.items())))


def allowed(
    policies: Iterable[dict[str, Any]], ends: Iterable[End], ports: Iterable[int]
) -> set[tuple[str, str, int]]:
    """Every (from, to, TCP port) that passes."""
    found, policies = list(ends), list(policies)
    return {
        (source.name, target.name, port)
        for source in found
        for target in found
        for port in ports
        if _passes(policies, "Egress", source, target, port)
        and _passes(policies, "Ingress", target, source, port)
    }


def _passes(
    policies: list[dict[str, Any]], direction: str, subject: End, peer: End, port: int
) -> bool:
    about = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == subject.namespace
        and direction in policy["spec"]["policyTypes"]
        and _matches(policy["spec"]["podSelector"], dict(subject.labels))
    ]
    if not about:
        return True
    rules = [rule for policy in about for rule in policy["spec"].get(direction.lower()) or []]
    key = "to" if direction == "Egress" else "from"
    return any(
        (not rule.get(key) or any(_is(peer, entry, subject.namespace) for entry in rule[key]))
        and (not rule.get("ports") or any(_port(entry, port) for entry in rule["ports"]))
        for rule in rules
    )


def _is(peer: End, entry: dict[str, Any], own: str) -> bool:
    assert "ipBlock" not in entry
    space = entry.get("namespaceSelector")
    there = peer.namespace == own if space is None else _matches(space, {NAMESPACE: peer.namespace})
    return there and _matches(entry.get("podSelector", {}), dict(peer.labels))


def _port(entry: dict[str, Any], port: int) -> bool:
    return bool(entry.get("protocol", "TCP") == "TCP" and entry["port"] == port)


def _matches(selector: dict[str, Any], labels: Mapping[str, str]) -> bool:
    assert "matchExpressions" not in selector
    return selector.get("matchLabels", {}).items() <= labels.items()
