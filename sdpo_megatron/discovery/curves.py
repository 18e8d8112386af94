"""discovery@k, the probability of at least one success in the first k attempts: pure functions.

A search that stops at its first success says of each k whether it had succeeded by then.
discovery@k is the mean over questions of the mean over seeds (arXiv 2601.20802, section 5: its
intervals are 90 % bootstrap intervals over seeds).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdpo_megatron.discovery.searches import Search

Floats = npt.NDArray[np.float64]
LEVEL = 0.90


@dataclass(frozen=True)
class Curve:
    """discovery@k at `ks`, and the ends of its interval at each."""

    ks: tuple[int, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def solved_by(search: Search, ks: Sequence[int]) -> Floats:
    """1 where the search had succeeded within k attempts, 0 where not, NaN beyond its budget."""
    at = math.inf if search.found_at is None else search.found_at
    return np.array([float(at <= k) if k <= search.budget else math.nan for k in ks])


def pass_at_k(attempts: int, successes: int, k: int) -> float:
    """Unbiased estimate of the probability of at least one success among k attempts, from
    `successes` of `attempts` independent ones (arXiv 2107.03374): 1 - C(n - c, k) / C(n, k).

    NaN for more attempts than there were. Exact in integers up to the division.
    """
    if not 0 <= successes <= attempts or k < 1:
        raise ValueError(f"{successes} successes of {attempts} attempts, k={k}")
    if k > attempts:
        return math.nan
    return 1.0 - math.comb(attempts - successes, k) / math.comb(attempts, k)


def curve(
    questions: Mapping[str, Sequence[Search]],
    ks: Sequence[int],
    *,
    over: str = "seeds",
    draws: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> Curve:
    """The discovery curve of one method.

    Args:
        questions: Its searches, by question.
        over: What the interval is about. seeds: these questions, other seeds; questions: others of
            the kind, too.
        draws: Bootstrap samples.

    Raises:
        ValueError: There are no searches, or `over` is neither.
    """
    if not questions:
        raise ValueError("no searches to make a curve of")
    if over not in ("seeds", "questions"):
        raise ValueError(f"over={over!r}: expected seeds or questions")
    tables = [np.stack([solved_by(s, ks) for s in found]) for found in questions.values()]
    middle = np.mean([table.mean(0) for table in tables], axis=0)
    random = np.random.default_rng(seed)
    drawn = _resampled(tables, over, draws, random)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    return Curve(tuple(ks), *(tuple(map(float, row)) for row in (middle, low, high)))


def _resampled(tables: list[Floats], over: str, draws: int, random: np.random.Generator) -> Floats:
    """discovery@k of bootstrap samples, [draws, ks].

    Of n seeds of a question n - 1 are drawn: resampling n of n values spreads by a factor
    sqrt((n - 1) / n) too little, which matters for the 3 to 10 seeds that there are.
    """
    places = len(tables)
    chosen = np.broadcast_to(np.arange(places), (draws, places))
    if over == "questions":
        chosen = random.integers(places, size=(draws, places))
    total = np.zeros((draws, tables[0].shape[1]))
    for number, table in enumerate(tables):
        where = chosen == number
        size = (int(where.sum()), max(1, len(table) - 1))
        means = np.zeros((draws, places, table.shape[1]))
        means[where] = table[random.integers(len(table), size=size)].mean(1)
        total += means.sum(1)
    return total / places


def attempts_for(probability: float, found: Callable[[int], float], budget: int) -> int | None:
    """The smallest k with discovery@k of at least `probability`; None when the budget is too small.

    Args:
        found: discovery@k, which never falls with k.
    """
    low, high = 1, budget
    if not found(budget) >= probability:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) >= probability else (middle + 1, high)
    return low


def speed_up(ours: Curve, theirs: Curve, probability: float) -> float:
    """How many times fewer attempts `ours` needs for `probability`; NaN where one does not reach
    it. Both curves are read at their own ks.
    """
    needed = []
    for one in (ours, theirs):
        at = [k for k, value in zip(one.ks, one.values, strict=True) if value >= probability]
        if not at:
            return math.nan
        needed.append(min(at))
    return needed[1] / needed[0]
