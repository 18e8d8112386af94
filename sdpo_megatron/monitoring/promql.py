"""PromQL made from declarations: a name or label that nothing exports is an error here.

select(series.ENGINE_UP, engine="engine-0")        sdpo_engine_up{engine="engine-0"}
of_step("teacher/gain_failed")                     sdpo_teacher_gain{attempts="failed"}
"""

from __future__ import annotations

from sdpo_megatron.observability.metrics import BY_KEY, Metric
from sdpo_megatron.observability.series import SERIES, Series

__all__ = [
    "THIS_RUN",
    "bucket",
    "count",
    "joined",
    "mean",
    "of_step",
    "quantile",
    "select",
    "total",
]

THIS_RUN = 'cluster=~"$cluster",run=~"$run"'
"""Matchers of what a dashboard's variables choose."""
TARGET = ("cluster", "run")
"""Labels that the scrape adds: the run's unique name, and the cluster it is in."""
INFINITE = 1e300

_BY_NAME = {series.name: series for series in SERIES}


def select(series: Series, where: str = "", *, suffix: str = "", **labels: str) -> str:
    """A selector of the series, with matchers.

    Args:
        where: More matchers, as PromQL writes them; `THIS_RUN`, say.
        suffix: "_bucket", "_sum" or "_count" of a histogram.
        labels: Values that labels of the series must have.

    Raises:
        ValueError: The series has no such label, or the label no such value.
    """
    if bool(suffix) != (series.kind == "histogram"):
        raise ValueError(f"{series.name} is a {series.kind}: got the suffix {suffix!r}")
    for label, value in labels.items():
        known = series.labels.get(label)
        if known is None or (known and value not in known):
            raise ValueError(f"{series.name} has no {label}={value!r}; labels: {series.labels}")
    matchers = [where] if where else []
    matchers += [f'{label}="{value}"' for label, value in labels.items()]
    return f"{series.name}{suffix}" + (f"{{{','.join(matchers)}}}" if matchers else "")


def bucket(series: Series, where: str = "", **labels: str) -> str:
    """The buckets of a histogram."""
    return select(series, where, suffix="_bucket", **labels)


def total(series: Series, where: str = "", **labels: str) -> str:
    """The sum of what a histogram observed."""
    return select(series, where, suffix="_sum", **labels)


def count(series: Series, where: str = "", **labels: str) -> str:
    """How often a histogram observed."""
    return select(series, where, suffix="_count", **labels)


def quantile(q: float, series: Series, window: str, where: str = "", by: str = "") -> str:
    """The `q` quantile of what a histogram observed within `window`."""
    labels = ", ".join(("le", by)) if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({bucket(series, where)}[{window}])))"


def mean(series: Series, window: str, where: str = "", by: str = "") -> str:
    """The mean of what a histogram observed within `window`."""
    grouped = f"sum by ({by}) " if by else "sum "
    above, below = total(series, where), count(series, where)
    return f"{grouped}(rate({above}[{window}])) / {grouped}(rate({below}[{window}]))"


def of_step(key: str, where: str = "") -> str:
    """The series of a step's metric.

    Raises:
        KeyError: No metric has the key.
        ValueError: It has no series of its own.
    """
    metric = BY_KEY[key]
    if not metric.name:
        raise ValueError(f"{key} is not exported: name the series that it is computed from")
    suffix = "_sum" if metric.kind == "histogram" else ""
    return select(series_of(metric), where, suffix=suffix, **dict(metric.labels))


def series_of(metric: Metric) -> Series:
    """The series that a step's metric is shown as."""
    return _BY_NAME[metric.name]


def joined(left: str, operator: str, right: str) -> str:
    """A binary operation of series of one run that differ in other labels; `right` has one each."""
    return f"{left} {operator} on ({', '.join(TARGET)}) group_left () {right}"
