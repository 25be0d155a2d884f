"""Ratios to one number: by hand, and what must not change it."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgrad.kernels.estimate import Estimate, counts, estimate, median_interval, rounded

positive = st.floats(1e-3, 1e3)
pairs = st.lists(st.tuples(positive, positive), min_size=8, max_size=200)


def of(ratios: list[float], **changes: int) -> Estimate:
    found = estimate(ratios, **{"bucket_rounds": 10, "buckets": 8, **changes}, level=0.99)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (1.118, 1.11),
        (0.992, 1.00),
        (1.0, 1.0),
        (1.0099999, 1.0),
        (1.01, 1.01),
        (1.15, 1.15),
        (2.675, 2.67),
        (0.29, 0.29),
        (0.981, 0.99),
        (0.98, 0.98),
        (0.001, 0.01),
        (368.123, 368.12),
        (1e9 + 0.999, 1e9 + 0.99),
    ],
)
def test_rounding_is_toward_one(ratio: float, expected: float) -> None:
    assert rounded(ratio) == expected


@given(st.floats(1e-6, 1e6))
def test_rounding_never_flatters(ratio: float) -> None:
    assert abs(rounded(ratio) - 1) <= abs(ratio - 1)
    assert abs(rounded(ratio) - ratio) < 0.01 + 1e-9
    assert rounded(rounded(ratio)) == rounded(ratio)


def test_a_speedup_counts_above_one_percent() -> None:
    assert [counts(value) for value in (None, 0.5, 1.0, 1.01, 1.02)] == [False, False, False, False, True]


def test_buckets_by_hand() -> None:
    # Eight buckets of two: (1, 4) has the geometric mean 2, (2, 8) has 4; the others hold one value twice.
    ratios = [1, 4, 2, 8, 1, 1, 3, 3, 3, 3, 5, 5, 6, 6, 7, 7]
    found = of([float(value) for value in ratios], bucket_rounds=2)
    assert found.bucket_means == pytest.approx((2, 4, 1, 3, 3, 5, 6, 7))
    # The middle two are 3 and 4.
    assert found.ratio == pytest.approx(math.sqrt(12))
    assert found.interval == pytest.approx((1, 7))
    assert found.variance == pytest.approx(statistics.variance([math.log(v) for v in (2, 4, 1, 3, 3, 5, 6, 7)]))
    assert found.speedup == 1.0, "the interval holds 1"


@pytest.mark.parametrize(("rounds", "buckets"), [(8, 8), (79, 8), (80, 8), (89, 8), (90, 9), (1234, 123)])
def test_the_number_of_buckets(rounds: int, buckets: int) -> None:
    assert len(of([2.0] * rounds).bucket_means) == buckets


def test_too_few_rounds_are_no_number() -> None:
    assert estimate([2.0] * 7, bucket_rounds=10, buckets=8, level=0.99) is None


def test_a_mean_of_ratios_would_flatter_noise() -> None:
    """One call in ten takes three times as long, on both sides alike. By the paper's formula that is a gain of 12 %."""
    rng = random.Random(5)
    ratios = [(3 if rng.random() < 0.1 else 1) / (3 if rng.random() < 0.1 else 1) for _ in range(40_000)]
    assert statistics.fmean(ratios) == pytest.approx(1.2 * (0.9 + 0.1 / 3), abs=0.01)
    assert of(ratios, bucket_rounds=5_000).ratio == pytest.approx(1, abs=0.02)


def test_one_outlier_moves_nothing() -> None:
    ratios = [1.5] * 79 + [1e6]
    assert of(ratios).ratio == pytest.approx(1.5)
    assert of(ratios).variance > 0.005, "but the gate sees it"


@given(pairs)
def test_exchanging_the_sides_inverts_the_ratio(pairs: list[tuple[float, float]]) -> None:
    there = of([one / other for one, other in pairs])
    back = of([other / one for one, other in pairs])
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert back.interval == pytest.approx((1 / there.interval[1], 1 / there.interval[0]))
    assert back.variance == pytest.approx(there.variance, abs=1e-9)


@given(pairs, positive)
def test_a_common_slow_down_changes_nothing(pairs: list[tuple[float, float]], factor: float) -> None:
    before = of([one / other for one, other in pairs])
    after = of([(one * factor) / (other * factor) for one, other in pairs])
    assert after.ratio == pytest.approx(before.ratio)


@given(pairs, st.integers())
def test_the_order_of_rounds_in_a_bucket_and_of_buckets_does_not_matter(
    pairs: list[tuple[float, float]], seed: int
) -> None:
    rng = random.Random(seed)
    size = len(pairs) // 8
    ratios = [one / other for one, other in pairs]
    buckets = [ratios[index * size : (index + 1) * size] for index in range(8)]
    shuffled = [rng.sample(bucket, len(bucket)) for bucket in rng.sample(buckets, 8)]
    before = of([ratio for bucket in buckets for ratio in bucket], bucket_rounds=size)
    after = of([ratio for bucket in shuffled for ratio in bucket], bucket_rounds=size)
    assert after.ratio == pytest.approx(before.ratio)
    assert sorted(after.bucket_means) == pytest.approx(sorted(before.bucket_means))


@given(pairs)
def test_scaling_every_ratio_scales_the_number(pairs: list[tuple[float, float]]) -> None:
    ratios = [one / other for one, other in pairs]
    assert of([2 * ratio for ratio in ratios]).ratio == pytest.approx(2 * of(ratios).ratio)


# ---- The interval ---------------------------------------------------------------------------------------------------


def test_the_interval_by_hand() -> None:
    # 8 values: P(all on one side) = 2 / 256 = 0.8 %. 20 values, 99 %: P(B <= 3) = 1351 / 2^20 = 0.13 % a side,
    # P(B <= 4) = 6196 / 2^20 = 0.59 % is above 0.5 %. So the fourth from each end.
    assert median_interval([5, 1, 2, 3, 4, 6, 7, 8], 0.99) == (1, 8)
    assert median_interval([float(v) for v in range(1, 21)], 0.99) == (4, 17)
    with pytest.raises(ValueError, match="7 values"):
        median_interval([1.0] * 7, 0.99)


@pytest.mark.parametrize("n", [8, 15, 40])
def test_the_interval_holds_the_median_as_often_as_it_says(n: int) -> None:
    rng = random.Random(n)
    # Skewed, so that a symmetric interval would miss: exponential, median log 2.
    intervals = [median_interval([rng.expovariate(1) for _ in range(n)], 0.99) for _ in range(4000)]
    held = sum(low <= math.log(2) <= high for low, high in intervals)
    assert held / 4000 >= 0.985
