"""How long responses are: log-normal, as lengths of reasoning are, and cut at the limit."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The distribution of response lengths, tokens.

    Attributes:
        mean: Before the cut.
        spread: Standard deviation over mean, before the cut. 0: all alike.
        limit: Longest possible.
    """

    mean: float
    spread: float
    limit: int

    def quantile(self, share: float) -> float:
        """The length that this share of responses does not exceed, 0 < share < 1."""
        if not self.spread:
            return min(self.mean, self.limit)
        mu, sigma = self._log()
        return min(self.limit, math.exp(mu + sigma * _NORMAL.inv_cdf(share)))

    def expected(self) -> float:
        """Mean after the cut: E min(X, limit)."""
        if not self.spread:
            return min(self.mean, self.limit)
        mu, sigma = self._log()
        below = (math.log(self.limit) - mu) / sigma
        return self.mean * _NORMAL.cdf(below - sigma) + self.limit * (1 - _NORMAL.cdf(below))

    def cut_share(self) -> float:
        """Share of responses that reach the limit."""
        if not self.spread:
            return float(self.mean >= self.limit)
        mu, sigma = self._log()
        return 1 - _NORMAL.cdf((math.log(self.limit) - mu) / sigma)

    def longest(self, number: int) -> float:
        """The longest of `number` responses: the median of it."""
        return self.quantile(0.5 ** (1 / number))

    def evenly(self, number: int) -> list[float]:
        """`number` lengths that stand for the distribution, shortest first: the middle of each of
        as many equal shares.
        """
        return [self.quantile((i + 0.5) / number) for i in range(number)]

    def drawn(self, number: int, draw: random.Random) -> list[float]:
        """`number` lengths in an order drawn by `draw`."""
        found = self.evenly(number)
        draw.shuffle(found)
        return found

    def _log(self) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm."""
        variance = math.log1p(self.spread**2)
        return math.log(self.mean) - variance / 2, math.sqrt(variance)
