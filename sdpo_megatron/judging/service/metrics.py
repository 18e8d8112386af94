"""What a verifier service tells Prometheus. Names follow
https://prometheus.io/docs/practices/naming/."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class ServiceMetrics:
    """The metrics of one service, in its own registry (in tests a process may hold several)."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.verdicts = Counter(
            "sdpo_verifier_verdicts",
            "Verdicts given, by verifier and outcome (success, wrong, unreadable).",
            ["verifier", "outcome"],
            registry=registry,
        )
        self.failures = Counter(
            "sdpo_verifier_failures",
            "Accepted items without a verdict, by verifier and reason: "
            "unavailable, deadline, bad_item, broken.",
            ["verifier", "reason"],
            registry=registry,
        )
        self.seconds = Histogram(
            "sdpo_verifier_seconds",
            "Seconds of judging one item, waiting not included.",
            ["verifier"],
            buckets=SECONDS,
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "sdpo_verifier_wait_seconds",
            "Seconds an item waited for a worker.",
            buckets=SECONDS,
            registry=registry,
        )
        self.requests = Counter(
            "sdpo_verifier_requests",
            "Answers to requests for verdicts and with items, by HTTP status code.",
            ["code"],
            registry=registry,
        )
        self.queued = Gauge(
            "sdpo_verifier_queue_items",
            "Items accepted and not yet judged.",
            registry=registry,
        )
        self.queue_size = Gauge(
            "sdpo_verifier_queue_limit_items",
            "Items that are accepted at most; beyond it requests are answered 429.",
            registry=registry,
        )
        self.items = Gauge(
            "sdpo_verifier_item_cache_bytes",
            "JSON of the items kept, so that each travels once.",
            registry=registry,
        )

    def page(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)
