"""The metrics of a run on http://ADDRESS:PORT/metrics for Prometheus. Rank 0 alone has one."""

from __future__ import annotations

import math
from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

from sdpo_megatron.fields import Port, Word, settings
from sdpo_megatron.nouns import StepReport
from sdpo_megatron.observability.metrics import METRICS, Metric

__all__ = ["Exporter", "ExporterConfig"]

# Ports tried after a taken one lie this far apart: the next few belong to the verifier service.
_PORT_STRIDE = 10
_NUM_PORTS = 5


@settings
class ExporterConfig:
    """Where the exporter listens (``run.metrics_address`` and ``run.metrics_port``)."""

    enabled: bool = True
    """False: no port is opened."""
    address: Word = "127.0.0.1"
    """Interface to bind."""
    port: Port = 9400
    """First TCP port to try; 0 lets the system choose."""


class Exporter:
    """Holds the current value of every declared metric and serves them.

    A port in use never stops training: the next ones are tried, then the run goes on without.

    Args:
        config: Where to listen.
        warn: Told when the port differs from the configured one or when there is none.
        run: Name of the run, the `run` label of `sdpo_run_info`.
    """

    def __init__(self, config: ExporterConfig, warn: Callable[[str], None], run: str = "") -> None:
        self.registry = CollectorRegistry()
        self._instruments = [(metric, self._instrument(metric)) for metric in METRICS]
        self._step = Gauge("sdpo_step", "Number of the last finished step", registry=self.registry)
        self._finished_at = Gauge(
            "sdpo_last_step_timestamp_seconds",
            "Unix time at which the last step finished; an old one means a hang",
            registry=self.registry,
        )
        info = Gauge("sdpo_run_info", "Always 1; names the run", ["run"], registry=self.registry)
        info.labels(run=run).set(1)
        ProcessCollector(registry=self.registry)
        self._server, self.port = self._listen(config, warn)

    def publish(self, report: StepReport) -> None:
        """Shows one step. Counters add the report's value; a NaN adds nothing.

        Raises:
            KeyError: The report's metrics did not go through `metrics.reconcile`.
        """
        for metric, instrument in self._instruments:
            value = report.metrics[metric.key]
            if isinstance(instrument, Gauge):
                instrument.set(value)
            elif math.isnan(value):
                continue
            elif isinstance(instrument, Counter):
                instrument.inc(value)
            else:
                instrument.observe(value)
        self._step.set(report.step)
        self._finished_at.set_to_current_time()

    def close(self) -> None:
        """Stops listening; safe to call twice."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _instrument(self, metric: Metric) -> Gauge | Counter | Histogram:
        if metric.kind == "gauge":
            return Gauge(metric.name, metric.help, registry=self.registry)
        if metric.kind == "counter":
            return Counter(metric.name, metric.help, registry=self.registry)
        return Histogram(metric.name, metric.help, buckets=metric.buckets, registry=self.registry)

    def _listen(
        self, config: ExporterConfig, warn: Callable[[str], None]
    ) -> tuple[WSGIServer | None, int | None]:
        """(server, port), or (None, None) when there is nowhere to listen."""
        if not config.enabled:
            return None, None
        candidates = range(config.port, 65536, _PORT_STRIDE)[:_NUM_PORTS]
        reason: OSError | None = None
        for port in candidates:
            try:
                server, _ = start_http_server(port, config.address, self.registry)
            except OSError as error:
                reason = error
                continue
            if port != config.port:
                warn(
                    f"metrics: port {config.port} on {config.address} is in use; they are at "
                    f"http://{config.address}:{port}/metrics (set run.metrics_port to choose)"
                )
            return server, server.server_port
        warn(
            f"metrics: none of the ports {', '.join(map(str, candidates))} on {config.address} "
            f"can be opened ({reason}); training goes on without Prometheus metrics "
            "(set run.metrics_address or run.metrics_port; run.metrics_port=0 is silent)"
        )
        return None, None
