"""Estimators against exact values, and intervals over simulated evaluations of a planted model."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import combinations

import pytest

from sdpo_megatron.discovery.curves import pass_at_k
from sdpo_megatron.evaluation.estimates import (
    Estimate,
    bootstrapped,
    powers_of_two,
    proportion,
    student_quantile,
)
from sdpo_megatron.evaluation.records import JudgedAttempt, JudgedQuestion
from sdpo_megatron.evaluation.summary import summaries

RUNS = 200


def question(name: str, successes: list[bool], tokens: int = 10) -> JudgedQuestion:
    attempts = tuple(
        JudgedAttempt(
            success=success, reward=float(success), format_ok=True, tokens=tokens,
            finish="stop", text="", feedback="",
        )
        for success in successes
    )  # fmt: skip
    return JudgedQuestion(task="t", question=name, difficulty="", dropped=0, attempts=attempts)


def exact_pass_at_k(successes: list[bool], k: int) -> float:
    """By looking at every choice of k attempts."""
    chosen = [any(few) for few in combinations(successes, k)]
    return sum(chosen) / len(chosen)


def test_pass_at_k_is_the_mean_over_every_choice_of_k_attempts() -> None:
    draw = random.Random(0)
    questions = [[draw.random() < p for _ in range(8)] for p in (0.0, 0.1, 0.4, 0.9, 1.0)]
    (found,) = summaries([question(str(i), s) for i, s in enumerate(questions)])
    assert list(found.passed) == [1, 2, 4, 8]
    for k, estimate in found.passed.items():
        exact = sum(exact_pass_at_k(s, k) for s in questions) / len(questions)
        assert estimate.value == pytest.approx(exact, rel=1e-12)
    assert found.passed[1].value == found.avg.value


def test_pass_at_k_is_unbiased_and_stable_for_many_attempts() -> None:
    """The naive 1 - (1 - c / n)^k is biased: here by more than the tolerance."""
    draw = random.Random(1)
    p, n, k, runs = 0.1, 10, 8, 4000
    counts = [sum(draw.random() < p for _ in range(n)) for _ in range(runs)]
    found = [pass_at_k(n, c, k) for c in counts]
    naive = sum(1 - (1 - c / n) ** k for c in counts) / runs
    truth = 1 - (1 - p) ** k
    assert sum(found) / runs == pytest.approx(truth, abs=0.02)
    assert abs(naive - truth) > 0.02
    (many,) = summaries([question("q", [i < 3 for i in range(5000)])])
    assert many.passed[4096].value == pytest.approx(1 - (904 / 5000) ** 3, rel=1e-3)


def test_questions_with_fewer_attempts_count_for_smaller_k_only() -> None:
    (found,) = summaries([question("a", [True, False, False, False]), question("b", [False])])
    assert found.passed[1].value == 0.125
    assert found.passed[4].value == 1.0


# --- intervals -----------------------------------------------------------------------------------


def coverage(
    evaluate: Callable[[random.Random], Estimate], truth: float, runs: int = RUNS
) -> float:
    covered = 0
    for seed in range(runs):
        found = evaluate(random.Random(seed))
        assert found.low <= found.value <= found.high
        covered += found.low <= truth <= found.high
    return covered / runs


# Of 200 intervals at 95 %, 190 cover on average; fewer than 181 or 199 and more are each
# less likely than 1 in 100.
LEAST, MOST = 181 / RUNS, 199 / RUNS


def solved(draw: random.Random, rate: float, n: int) -> int:
    return sum(draw.random() < rate for _ in range(n))


def planted(draw: random.Random, num: int, n: int, a: float, b: float) -> list[float]:
    """avg@n of each of `num` questions whose pass rates are drawn from Beta(a, b)."""
    rates = (draw.betavariate(a, b) for _ in range(num))
    return [solved(draw, rate, n) / n for rate in rates]


@pytest.mark.parametrize(
    ("num", "n", "a", "b"),
    [(164, 4, 0.5, 1.5), (60, 16, 2.0, 2.0), (30, 1, 1.0, 4.0), (20, 8, 0.3, 3.0)],
    ids=["as HumanEval", "of middling questions", "one attempt", "few and hard"],
)
def test_the_interval_of_avg_at_n_covers_at_its_level(num: int, n: int, a: float, b: float) -> None:
    found = coverage(lambda draw: proportion(planted(draw, num, n, a, b)), a / (a + b))
    assert LEAST <= found <= MOST


def test_the_interval_of_pass_at_k_covers_at_its_level() -> None:
    """For rates of Beta(1, 3): P(no success in k) is the k-th moment of Beta(3, 1), 3 / (3 + k)."""
    k = 4

    def passed(draw: random.Random) -> Estimate:
        counts = [solved(draw, draw.betavariate(1, 3), 16) for _ in range(60)]
        return proportion([pass_at_k(16, count, k) for count in counts])

    found = coverage(passed, 1 - 3 / (3 + k))
    assert LEAST <= found <= MOST


def test_the_paired_difference_covers_at_its_level() -> None:
    """A training that solves a third of what was not solved: the rate rises by (1 - p) / 3."""

    def difference(draw: random.Random) -> Estimate:
        rates = [draw.betavariate(1, 1) for _ in range(40)]
        return bootstrapped(
            [(solved(draw, r + (1 - r) / 3, 8) - solved(draw, r, 8)) / 8 for r in rates]
        )

    assert LEAST <= coverage(difference, (1 - 0.5) / 3) <= MOST


def test_the_interval_of_a_skewed_length_covers_nearly_at_its_level() -> None:
    """Lengths of a few long attempts among short ones: bootstrap intervals are a little narrow."""

    def mean_length(draw: random.Random) -> Estimate:
        return bootstrapped([draw.expovariate(1 / 100) for _ in range(40)])

    assert 0.90 <= coverage(mean_length, 100.0) <= MOST


def test_an_interval_over_attempts_would_not_cover() -> None:
    """Why the unit is the question: Wilson's interval at all attempts is far too narrow."""

    def naive(draw: random.Random) -> Estimate:
        counts = [round(16 * rate) for rate in planted(draw, 30, 16, 0.5, 0.5)]
        return proportion([float(i < count) for count in counts for i in range(16)])

    assert coverage(naive, 0.5) < 0.7


def test_all_solved_or_none_is_not_certainty() -> None:
    for value in (0.0, 1.0):
        found = proportion([value] * 20)
        assert found.value == value
        width = found.high - found.low
        assert 0.1 < width < 0.2
        assert 0.0 <= found.low <= found.high <= 1.0


def test_wilsons_interval_of_single_attempts() -> None:
    """30 of 100: by hand, with Student's 1.984 at 99 degrees of freedom, trials 100 * 99 / 100."""
    found = proportion([1.0] * 30 + [0.0] * 70)
    z, n, p = 1.98422, 99.0, 0.3
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    assert found.low == pytest.approx(middle - half, abs=1e-5)
    assert found.high == pytest.approx(middle + half, abs=1e-5)


def test_nothing_and_one_question() -> None:
    assert math.isnan(proportion([]).value)
    for estimate in (proportion([0.5]), bootstrapped([0.5])):
        assert estimate.value == 0.5
        assert math.isnan(estimate.low)


def test_students_quantiles() -> None:
    table = {1: 12.706, 2: 4.3027, 3: 3.1824, 6: 2.4469, 10: 2.2281, 30: 2.0423, 1000: 1.9623}
    for freedom, value in table.items():
        assert student_quantile(freedom) == pytest.approx(value, rel=1e-4)
    assert student_quantile(10, 0.90) == pytest.approx(1.8125, rel=1e-4)


def test_powers_of_two() -> None:
    assert powers_of_two(0) == []
    assert powers_of_two(1) == [1]
    assert powers_of_two(8) == [1, 2, 4, 8]
    assert powers_of_two(10) == [1, 2, 4, 8, 10]
