"""Which series a target of ours shows, by the names that Prometheus stores."""

from __future__ import annotations

from collections.abc import Iterator

import promql_parser

from sdpo_megatron.judging.service.metrics import SERVICE
from sdpo_megatron.monitoring.recording import RECORDED
from sdpo_megatron.monitoring.sglang import SGLANG
from sdpo_megatron.observability.series import SERIES, Series

OF_PROMETHEUS = {"up": {"component"}, "ALERTS": {"alertstate"}}
"""Its own series that we ask for, and the labels that we ask by."""
OF_TARGETS = {"cluster", "run", "instance", "component", "pod", "namespace", "job"}


def stored(declared: Series) -> Iterator[str]:
    """The names of its samples."""
    if declared.kind != "histogram":
        yield declared.name
        return
    for part in ("bucket", "sum", "count"):
        yield f"{declared.name}_{part}"


LABELS: dict[str, set[str]] = {
    name: {*declared.label_names, *OF_TARGETS} | ({"le"} if name.endswith("_bucket") else set())
    for declared in (*SERIES, *SERVICE, *SGLANG)
    for name in stored(declared)
}
LABELS |= {rule.name: {"role", "model", *OF_TARGETS} for rule in RECORDED}
LABELS |= {name: labels | OF_TARGETS for name, labels in OF_PROMETHEUS.items()}


def plain(expr: str) -> str:
    """Without Grafana's variables."""
    for variable, value in (("$__rate_interval", "1m"), ("$cluster", ".*"), ("$run", ".*")):
        expr = expr.replace(variable, value)
    return expr


def selectors(expr: str) -> list[promql_parser.VectorSelector]:
    """Every selector in an expression.

    Raises:
        ValueError: It does not parse.
    """
    found: list[promql_parser.VectorSelector] = []

    def visit(node: object) -> None:
        if isinstance(node, promql_parser.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
            return
        for name in ("expr", "lhs", "rhs", "param"):
            if (child := getattr(node, name, None)) is not None:
                visit(child)
        for child in getattr(node, "args", None) or ():
            visit(child)

    visit(promql_parser.parse(expr))
    return found


def strangers(expr: str) -> list[str]:
    """What an expression asks for that nothing exports; and at least one name is asked for."""
    wrong = []
    for selector in selectors(plain(expr)):
        asked = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
        name = selector.name or asked.pop("__name__", "").replace("[:_]", ":")  # SGLang's
        known = LABELS.get(name)
        if known is None:
            wrong.append(name)
            continue
        wrong += [f"{name}: {label}" for label in sorted(asked.keys() - known)]
    return wrong
