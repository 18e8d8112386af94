"""The metrics of a run on http://ADDRESS:PORT/metrics for Prometheus. Rank 0 alone has one."""

from __future__ import annotations

from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from sdpo_megatron.fields import Port, Word, settings
from sdpo_megatron.observability.board import Board

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
    """Serves the series of a board, and those of this process.

    A port in use never stops training: the next ones are tried, then the run goes on without.

    Args:
        config: Where to listen.
        warn: Told when the port differs from the configured one or when there is none.
        board: What to serve.
    """

    def __init__(self, config: ExporterConfig, warn: Callable[[str], None], board: Board) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(board)
        ProcessCollector(registry=self.registry)
        self._server, self.port = self._listen(config, warn)

    def close(self) -> None:
        """Stops listening; safe to call twice."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

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
