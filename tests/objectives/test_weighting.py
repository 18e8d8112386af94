"""Rewards to advantages, attempts to terms, tokens to weights: by hand, and the same however a
batch is split.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields.reading import build
from sdpo_megatron.objectives import (
    AttemptWeight,
    GlobalCounts,
    SdpoWeighting,
    WeightingConfig,
    group_advantages,
    token_weights,
)
from sdpo_megatron.objectives.aggregate import DENOMINATORS
from sdpo_megatron.objectives.weighting import weigh_group

REWARDS, SUCCESSES, TAUGHT = (
    [1.0, 0.0, 0.5, 0.0],
    [True, False, False, False],
    [True, True, True, False],
)


def test_advantage_is_reward_minus_mean_without_std() -> None:
    assert group_advantages(REWARDS) == [0.625, -0.375, 0.125, -0.375]
    assert group_advantages([0.7]) == [0.0]
    assert group_advantages([]) == []
    assert group_advantages([0.1] * 3) == [0.0] * 3


@given(st.lists(st.floats(0, 1), min_size=1, max_size=16))
def test_advantages_of_a_group_cancel(rewards: list[float]) -> None:
    assert math.fsum(group_advantages(rewards)) == pytest.approx(0.0, abs=1e-12)


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="reward 1 of the group is nan"):
        group_advantages([0.0, math.nan])


def weights(**fields: object) -> list[tuple[float, float]]:
    config = build(WeightingConfig, fields)
    found = weigh_group(config, REWARDS, SUCCESSES, TAUGHT)
    expected = [1.0, 0.0, 0.0, 0.0] if config.kind == "sft" else group_advantages(REWARDS)
    assert [w.advantage for w in found] == expected
    return [(w.distill_weight, w.policy_weight) for w in found]


def test_fine_tuning_takes_the_successes_alone_even_where_all_succeed() -> None:
    assert weights(kind="sft") == [(0, 1), (0, 0), (0, 0), (0, 0)]
    config = build(WeightingConfig, {"kind": "sft"})
    found = weigh_group(config, [1.0, 1.0], [True, True], [True, False])
    assert [(w.advantage, w.distill_weight, w.policy_weight) for w in found] == [(1, 0, 1)] * 2


def test_sdpo_and_grpo_use_one_term_and_the_untaught_are_masked() -> None:
    assert weights(kind="sdpo") == [(1, 0), (1, 0), (1, 0), (0, 0)]
    assert weights(kind="grpo") == [(0, 1)] * 4


def test_hybrid_mixes_by_lambda() -> None:
    found = weights(kind="hybrid", lambda_grpo=0.75)
    assert found == [(0.25, 0.75), (0.25, 0.75), (0.25, 0.75), (0.0, 0.75)]


def test_srpo_routes_correct_attempts_to_grpo_and_failed_ones_to_sdpo() -> None:
    assert weights(kind="srpo") == [(0, 1), (1, 0), (1, 0), (0, 0)]


def test_question_weight_is_the_deviation_of_its_success() -> None:
    """p = 1/4: sqrt(3) / 4."""
    expected = math.sqrt(3) / 4
    found = weights(kind="hybrid", lambda_grpo=0.5, question_weight="bernoulli_std")
    assert found[0] == (pytest.approx(expected / 2), pytest.approx(expected / 2))
    config = SdpoWeighting(question_weight="bernoulli_std")
    solved = weigh_group(config, [1.0, 1.0], [True, True], [True, True])
    assert solved == [AttemptWeight(0.0, 0.0, 0.0)] * 2


def test_attempts_and_verdicts_must_match() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        weigh_group(SdpoWeighting(), REWARDS, SUCCESSES, TAUGHT[:2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "dpo"}, "kind=dpo: expected one of sdpo, grpo, hybrid, srpo"),
        ({"kind": "hybrid", "lambda_grpo": 1.5}, "lambda_grpo=1.5: must be at most 1"),
        ({"kind": "sdpo", "lambda_grpo": 0.5}, "lambda_grpo: there is no such setting"),
        ({"kind": "sdpo", "question_weight": "std"}, "none, bernoulli_std"),
    ],
)
def test_settings_that_cannot_work(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(WeightingConfig, fields)


# Denominators. Two micro-batches: samples of 2 and 6 trained tokens, and one of 4 beside one that
# the term does not train on.
MICRO = [[2, 6], [4, 0]]
COUNTS = GlobalCounts(tokens=12, samples=4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("global_token", [[1 / 12, 1 / 12], [1 / 12, 0]]),
        ("official", [[2 / 4 / 8, 2 / 4 / 8], [2 / 4 / 4, 0]]),
        ("seq_mean_token_mean", [[1 / 4 / 2, 1 / 4 / 6], [1 / 4 / 4, 0]]),
        ("seq_mean_token_sum_norm", [[1 / 4 / 10, 1 / 4 / 10], [1 / 4 / 10, 0]]),
    ],
)
def test_denominators_by_hand(name: str, expected: list[list[float]]) -> None:
    length = 10 if name == "seq_mean_token_sum_norm" else None
    found = [token_weights(name, micro, COUNTS, norm_length=length) for micro in MICRO]
    assert found == [pytest.approx(row) for row in expected]


SPLITS = {
    "lengths": st.lists(st.integers(0, 50), min_size=1, max_size=12),
    "cuts": st.sets(st.integers(1, 11)),
}


def split_weights(name: str, lengths: list[int], cuts: set[int]) -> list[float]:
    """Weights of a batch whose micro-batches end at `cuts`."""
    counts = GlobalCounts(tokens=sum(lengths), samples=len(lengths))
    norm = 50 if name == "seq_mean_token_sum_norm" else None
    borders = [0, *sorted(c for c in cuts if c < len(lengths)), len(lengths)]
    return [
        weight
        for start, end in pairwise(borders)
        for weight in token_weights(name, lengths[start:end], counts, norm_length=norm)
    ]


@given(**SPLITS, name=st.sampled_from([n for n in DENOMINATORS if n != "official"]))
def test_all_but_official_do_not_move_with_the_split(
    lengths: list[int], cuts: set[int], name: str
) -> None:
    assert split_weights(name, lengths, cuts) == split_weights(name, lengths, set())


@given(**SPLITS)
def test_a_constant_loss_is_the_share_of_the_samples_that_are_trained_on(
    lengths: list[int], cuts: set[int]
) -> None:
    """1 where all are; global_token knows trained tokens only."""
    trained = sum(1 for n in lengths if n)

    def total(name: str) -> float:
        weights = split_weights(name, lengths, cuts)
        return math.fsum(weight * n for weight, n in zip(weights, lengths, strict=True))

    assert total("global_token") == pytest.approx(1.0 if trained else 0.0)
    assert total("seq_mean_token_mean") == pytest.approx(trained / len(lengths))
    assert total("seq_mean_token_sum_norm") == pytest.approx(sum(lengths) / 50 / len(lengths))
    if trained == len(lengths):
        assert total("official") == pytest.approx(1.0)


@given(lengths=SPLITS["lengths"])
def test_official_with_one_sample_a_micro_batch_is_the_mean_over_all_samples(
    lengths: list[int],
) -> None:
    """What the authors' scripts minimise, and what the recipes ask for under any packing."""
    alone = split_weights("official", lengths, set(range(1, len(lengths))))
    assert alone == pytest.approx(split_weights("seq_mean_token_mean", lengths, set()))


def test_denominators_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match=r"'mean'.*global_token"):
        token_weights("mean", [1], COUNTS)
    with pytest.raises(ConfigError, match="norm_length is None"):
        token_weights("seq_mean_token_sum_norm", [1], COUNTS)
    with pytest.raises(ValueError, match="13 trained tokens in a global batch of 12"):
        token_weights("global_token", [13], COUNTS)
    with pytest.raises(ValueError, match="5 samples in a global batch of 4"):
        token_weights("official", [1] * 5, COUNTS)
