"""The current value of every metric, and what Prometheus is shown of them.

A series appears once its value is known: a gauge when it was first set, a labelled counter when one
of its label values first came up. (A gauge that starts at 0 looks like a collapse after each start,
a counter that starts late hides its first increase; so counters whose labels are known start at 0.)
Families have no ``_created`` series.
"""

from __future__ import annotations

import bisect
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import Metric as Family
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.metrics import METRICS
from sdpo_megatron.observability.series import SERIES, Series

__all__ = ["Board", "UndeclaredSeries"]


class UndeclaredSeries(KeyError):
    """A name, or its labels, that `series.SERIES` does not hold."""


class _Histogram:
    """Counts by upper bound, and the sum of what was observed."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        names = [str(float(bound)) for bound in self.bounds] + ["+Inf"]
        running, rows = 0, []
        for name, count in zip(names, self.counts, strict=True):
            running += count
            rows.append((name, float(running)))
        return rows


class Board(Collector):
    """Holds values by series name and labels; safe from every thread.

    Register it with a prometheus_client registry to export it.
    """

    def __init__(self, declared: Sequence[Series] = SERIES) -> None:
        self._declared = {series.name: series for series in declared}
        self._values: dict[str, dict[tuple[str, ...], float]] = {s.name: {} for s in declared}
        self._histograms: dict[str, dict[tuple[str, ...], _Histogram]] = {
            s.name: {} for s in declared
        }
        self._lock = threading.Lock()
        self._before_collect: list[Callable[[], None]] = []
        for series in declared:
            for labels in series.known_labels():
                if series.kind == "counter":
                    self._values[series.name][labels] = 0.0
                elif series.kind == "histogram":
                    self._histograms[series.name][labels] = _Histogram(series.buckets)

    def before_collect(self, action: Callable[[], None]) -> None:
        """Have `action` called at the start of each scrape, to bring what moves up to date."""
        self._before_collect.append(action)

    def set(self, name: str, value: float, **labels: str) -> None:
        """A gauge's value; NaN removes the series, since nothing is known any more."""
        key = self._key(name, "gauge", labels)
        with self._lock:
            if math.isnan(value):
                self._values[name].pop(key, None)
            else:
                self._values[name][key] = float(value)

    def replace(self, name: str, value: float, **labels: str) -> None:
        """The same for a gauge that has one series at a time: the others go."""
        key = self._key(name, "gauge", labels)
        with self._lock:
            self._values[name] = {key: float(value)}

    def remove(self, name: str, **labels: str) -> None:
        """Take a gauge's series away; nothing happens where it is not there."""
        self.set(name, math.nan, **labels)

    def begin(self, name: str, **labels: str) -> None:
        """Have a counter be there, from 0 on, for label values that are known only now; for every
        declared value of its other labels. Nothing happens where it is there."""
        declared = self._declared[name].labels
        self._key(name, "counter", {**dict.fromkeys(declared, ""), **labels})
        choices = [(labels[n],) if n in labels else values for n, values in declared.items()]
        with self._lock:
            for key in itertools.product(*choices):
                self._values[name].setdefault(key, 0.0)

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Raise a counter. NaN adds nothing."""
        key = self._key(name, "counter", labels)
        if math.isnan(amount):
            return
        if amount < 0:
            raise ValueError(f"{name}: a counter cannot fall by {-amount}")
        with self._lock:
            self._values[name][key] = self._values[name].get(key, 0.0) + amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Count a value in a histogram. NaN is not counted."""
        key = self._key(name, "histogram", labels)
        if math.isnan(value):
            return
        with self._lock:
            found = self._histograms[name].setdefault(key, _Histogram(self._declared[name].buckets))
            found.observe(value)

    def publish(self, report: StepReport) -> None:
        """Show a finished step. Counters add the report's value; what it did not measure goes.

        Raises:
            KeyError: The report's metrics did not go through `metrics.reconcile`.
        """
        for metric in METRICS:
            value = report.metrics[metric.key]
            if not metric.name:
                continue
            labels = dict(metric.labels)
            if metric.kind == "gauge":
                self.set(metric.name, value, **labels)
            elif metric.kind == "counter":
                self.add(metric.name, value, **labels)
            else:
                self.observe(metric.name, value, **labels)
        self.set("sdpo_step", report.step)
        self.set("sdpo_last_step_timestamp_seconds", time.time())

    def value(self, name: str, **labels: str) -> float:
        """The value of a gauge or counter; NaN where it is not known."""
        series = self._declared[name]
        key = self._key(name, series.kind, labels)
        return self._values[name].get(key, math.nan)

    def collect(self) -> Iterator[Family]:
        """Every series whose value is known."""
        for action in self._before_collect:
            action()
        with self._lock:
            families = [self._family(series) for series in self._declared.values()]
        yield from (family for family in families if family.samples)

    def _family(self, series: Series) -> Family:
        if series.kind == "histogram":
            histogram = HistogramMetricFamily(series.name, series.help, labels=series.label_names)
            for labels, found in self._histograms[series.name].items():
                histogram.add_metric(labels, found.cumulative(), found.total)
            return histogram
        made = GaugeMetricFamily if series.kind == "gauge" else CounterMetricFamily
        family = made(series.name, series.help, labels=series.label_names)
        for labels, value in self._values[series.name].items():
            family.add_metric(labels, value)
        return family

    def _key(self, name: str, kind: str, labels: dict[str, str]) -> tuple[str, ...]:
        series = self._declared.get(name)
        if series is None or series.kind != kind:
            raise UndeclaredSeries(f"{name} is not a declared {kind}: see observability/series.py")
        if set(labels) != set(series.label_names):
            raise UndeclaredSeries(
                f"{name} has the labels {sorted(series.label_names)}, got {sorted(labels)}"
            )
        return tuple(str(labels[label]) for label in series.label_names)
