"""Which verifier service to ask next: addresses from a list or DNS, least outstanding first."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sdpo_megatron.addresses import DNS_PREFIX, REFRESH_S, addresses_of
from sdpo_megatron.errors import ConfigError, VerifierUnavailable

# how long an endpoint that failed is passed over; doubles while it keeps failing
FIRST_BENCH_S = 0.25
MAX_BENCH_S = 15.0


@dataclass
class Endpoint:
    """One address and what is known of it.

    Attributes:
        url: ``http://host:port``, without a final slash.
        outstanding: Requests sent and not answered.
        failures: Failures since the last success.
        benched_until: Monotonic time before which it is asked only when all are benched.
    """

    url: str
    outstanding: int = 0
    failures: int = 0
    benched_until: float = 0.0

    def failed(self) -> None:
        """Pass it over for a while."""
        self.failures += 1
        bench_s = min(MAX_BENCH_S, FIRST_BENCH_S * 2.0 ** min(self.failures - 1, 16))
        self.benched_until = time.monotonic() + bench_s

    def succeeded(self) -> None:
        """It answers again."""
        self.failures, self.benched_until = 0, 0.0


class Endpoints:
    """Chooses among endpoints. ``dns+http://name:port`` stands for every address of that name."""

    def __init__(self, urls: Sequence[str]) -> None:
        """Check the URLs.

        Raises:
            ConfigError: There is none, or one is not http(s)://host[:port].
        """
        if not urls:
            raise ConfigError("verifier client: give at least one endpoint URL")
        self._fixed = [u.rstrip("/") for u in urls if not u.startswith(DNS_PREFIX)]
        self._names = [u for u in urls if u.startswith(DNS_PREFIX)]
        for url in (*self._fixed, *self._names):
            parts = urlsplit(url.removeprefix(DNS_PREFIX))
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigError(f"verifier endpoint {url!r}: expected http://host:port")
        self._known = {url: Endpoint(url) for url in self._fixed}
        self._turn = itertools.count()
        self._resolved_at = float("-inf")
        self._lock = asyncio.Lock()

    async def choose(self, avoid: frozenset[str] = frozenset()) -> Endpoint:
        """The endpoint with the fewest outstanding requests.

        Not a benched one, and not one in `avoid`, if another exists.

        Raises:
            VerifierUnavailable: A DNS name has no address now.
        """
        await self._resolve()
        if not self._known:
            raise VerifierUnavailable(f"no address for {', '.join(self._names)}")
        now, turn = time.monotonic(), next(self._turn)
        candidates = list(self._known.values())

        def rank(position: int) -> tuple[bool, bool, int, int]:
            endpoint = candidates[position]
            # The turn spreads equals: otherwise the first of the list would get every lone request.
            return (
                endpoint.url in avoid,
                endpoint.benched_until > now,
                endpoint.outstanding,
                (position - turn) % len(candidates),
            )

        return candidates[min(range(len(candidates)), key=rank)]

    @property
    def count(self) -> int:
        """How many are known."""
        return len(self._known)

    async def _resolve(self) -> None:
        """Look the DNS names up again when that is due; a failed look-up keeps what was known."""
        if not self._names or time.monotonic() - self._resolved_at < REFRESH_S:
            return
        async with self._lock:
            if time.monotonic() - self._resolved_at < REFRESH_S:
                return
            urls = list(self._fixed)
            for name in self._names:
                urls += await addresses_of(name)
            if len(urls) > len(self._fixed):
                self._known = {url: self._known.get(url) or Endpoint(url) for url in urls}
                self._resolved_at = time.monotonic()
