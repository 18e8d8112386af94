"""What a verifier service tells Prometheus, declared like a run's series."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from sdpo_megatron.nouns import Verdict
from sdpo_megatron.observability.board import Board
from sdpo_megatron.observability.series import Series
from sdpo_megatron.sandbox import LAYERS

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
LIMITS = ("cpu_time", "wall_time", "memory", "output", "processes")

# fmt: off
VERDICTS = Series("sdpo_verifier_verdicts_total", "counter", "verdicts", "Verdicts given", {"verifier": (), "outcome": ("success", "wrong", "unreadable")})
FAILURES = Series("sdpo_verifier_failures_total", "counter", "items", "Accepted items without a verdict, by reason", {"verifier": (), "reason": ("unavailable", "deadline", "bad_item", "broken")})
SECONDS = Series("sdpo_verifier_seconds", "histogram", "s", "Seconds of judging one item, waiting not included", {"verifier": ()}, _SECONDS)
WAIT_SECONDS = Series("sdpo_verifier_wait_seconds", "histogram", "s", "Seconds an item waited for a worker", buckets=_SECONDS)
REQUESTS = Series("sdpo_verifier_requests_total", "counter", "requests", "Answers to requests for verdicts and with items, by HTTP status code; 429: no worker in time", {"code": ()})
QUEUE_ITEMS = Series("sdpo_verifier_queue_items", "gauge", "items", "Items accepted and not yet judged")
QUEUE_LIMIT = Series("sdpo_verifier_queue_limit_items", "gauge", "items", "Items that are accepted at most; beyond it requests are answered 429")
WORKERS_BUSY = Series("sdpo_verifier_workers_busy", "gauge", "workers", "Workers that judge now")
WORKERS = Series("sdpo_verifier_workers", "gauge", "workers", "Workers that there are")
ITEM_CACHE_BYTES = Series("sdpo_verifier_item_cache_bytes", "gauge", "bytes", "JSON of the items kept, so that each travels once")
KILLS = Series("sdpo_verifier_kills_total", "counter", "programs", "Programs ended by a limit of the sandbox", {"limit": LIMITS})
SANDBOX_REFUSALS = Series("sdpo_verifier_sandbox_refusals_total", "counter", "items", "Items not judged because the sandbox had fewer isolation layers than configured")
SANDBOX_LAYER_ACTIVE = Series("sdpo_verifier_sandbox_layer_active", "gauge", "1", "1 for an isolation layer that works here, 0 for one that does not; absent where no programs are run", {"layer": tuple(LAYERS)})
# fmt: on

SERVICE: tuple[Series, ...] = tuple(v for v in list(vars().values()) if isinstance(v, Series))
"""All of the above, in order."""


class ServiceMetrics(Board):
    """The metrics of one service, in its own registry (in tests a process may hold several)."""

    def __init__(self) -> None:
        super().__init__(SERVICE)
        self.set(QUEUE_ITEMS.name, 0)
        self.set(WORKERS_BUSY.name, 0)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def show_layers(self, active: tuple[str, ...]) -> None:
        """Which isolation layers the sandbox has."""
        for layer in LAYERS:
            self.set(SANDBOX_LAYER_ACTIVE.name, float(layer in active), layer=layer)

    def count(self, verifier: str, verdict: Verdict) -> None:
        """A verdict that was given."""
        outcome = "success" if verdict.success else "wrong" if verdict.format_ok else "unreadable"
        self.add(VERDICTS.name, verifier=verifier, outcome=outcome)
        if (limit := verdict.details.get("outcome")) in LIMITS:
            self.add(KILLS.name, limit=limit)

    def page(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)
