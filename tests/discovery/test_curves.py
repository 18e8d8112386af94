"""discovery@k and pass@k against exact values; intervals that cover at their level."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo_megatron.discovery.curves import (
    attempts_for,
    curve,
    pass_at_k,
    solved_by,
    speed_up,
)
from sdpo_megatron.discovery.searches import Search, by_question, read_searches, write_line
from sdpo_megatron.errors import ConfigError

BUDGET = 64
KS = (1, 2, 4, 8, 16, 32, 64)


def search(question: str, seed: int, found_at: int | None, budget: int = BUDGET) -> Search:
    attempts = budget if found_at is None else found_at
    return Search(
        method="sdpo", question_id=question, seed=seed, budget=budget, attempts=attempts,
        found_at=found_at,
    )  # fmt: skip


def simulated(rates: list[float], seeds: int, draw: random.Random) -> dict[str, list[Search]]:
    """Searches of a model that solves question q in each attempt with probability rates[q]."""
    found: dict[str, list[Search]] = {}
    for number, rate in enumerate(rates):
        for seed in range(seeds):
            first = next((k for k in range(1, BUDGET + 1) if draw.random() < rate), None)
            found.setdefault(f"q{number}", []).append(search(f"q{number}", seed, first))
    return found


def truth(rates: list[float], k: int) -> float:
    return sum(1 - (1 - rate) ** k for rate in rates) / len(rates)


def test_a_curve_by_hand() -> None:
    found = {"a": [search("a", 0, 1), search("a", 1, 3)], "b": [search("b", 0, None)]}
    assert curve(found, (1, 2, 3, 64)).values == (0.25, 0.25, 0.5, 0.5)


def test_beyond_its_budget_a_search_says_nothing() -> None:
    assert solved_by(search("a", 0, None, budget=4), (2, 4, 8)).tolist()[:2] == [0.0, 0.0]
    assert math.isnan(solved_by(search("a", 0, None, budget=4), (8,))[0])


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(attempts: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, attempts))
    k = data.draw(st.integers(1, attempts))
    outcomes = [True] * successes + [False] * (attempts - successes)
    subsets = list(itertools.combinations(outcomes, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(attempts, successes, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_thousands_is_exact() -> None:
    """1 - (1 - p)^k in the limit; the product of ratios would have lost digits."""
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5, abs=1e-12)
    assert math.isnan(pass_at_k(4, 1, 5))


def test_estimates_agree_with_the_exact_value() -> None:
    rates = [0.001, 0.01, 0.03, 0.2]
    draw = random.Random(1)
    found = simulated(rates, seeds=4000, draw=draw)
    estimated = curve(found, KS, draws=2).values
    for k, value in zip(KS, estimated, strict=True):
        assert value == pytest.approx(truth(rates, k), abs=0.008)


@pytest.mark.parametrize("over", ["seeds", "questions"])
def test_intervals_cover_at_their_level_over_200_runs(over: str) -> None:
    """19 questions and 5 seeds, as in the paper; 90 % of 200 is 180, chance gives 171 to 189."""
    draw = random.Random(7)
    rates = [0.002 * 1.4**n for n in range(19)]
    kind = [draw.choice(rates) for _ in range(4000)]
    covered = dict.fromkeys((8, 32, 64), 0)
    for run in range(200):
        asked = rates if over == "seeds" else draw.choices(rates, k=19)
        found = curve(simulated(asked, 5, draw), tuple(covered), over=over, draws=400, seed=run)
        for k, low, high in zip(found.ks, found.low, found.high, strict=True):
            exact = truth(rates if over == "seeds" else kind, k)
            covered[k] += low <= exact <= high
    assert all(168 <= count <= 197 for count in covered.values()), covered


def test_how_many_attempts_a_probability_takes() -> None:
    exact = {k: truth([0.05], k) for k in range(1, 65)}
    assert attempts_for(0.5, exact.__getitem__, 64) == 14  # (1 - 0.05)^14 = 0.488
    assert attempts_for(0.99, exact.__getitem__, 64) is None


def test_the_speed_up_at_equal_probability() -> None:
    ours = curve({"a": [search("a", 0, 4)]}, KS, draws=2)
    theirs = curve({"a": [search("a", 0, 16)]}, KS, draws=2)
    assert speed_up(ours, theirs, 1.0) == 4.0
    never = curve({"a": [search("a", 0, None)]}, KS, draws=2)
    assert math.isnan(speed_up(ours, never, 0.5))


def test_searches_survive_a_file_and_a_torn_line(tmp_path) -> None:
    path = tmp_path / "searches.jsonl"
    first, second = search("a", 0, 4), search("a", 0, 9)
    path.write_text(f"{write_line(first)}\n{write_line(second)}\n{write_line(first)[:20]}")
    assert read_searches(path) == [second]  # the last of a question and seed
    assert by_question(read_searches(path), "sdpo") == {"a": [second]}
    path.write_text("{}\n" + write_line(first) + "\n")
    with pytest.raises(ConfigError, match=r"searches.jsonl:1: is no search"):
        read_searches(path)


def test_a_search_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="found at attempt 9 of 8"):
        Search(method="sdpo", question_id="a", seed=0, budget=8, attempts=8, found_at=9)
