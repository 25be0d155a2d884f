"""Order as a function of (seed, position)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgrad.data.mixture import Mixture, order

sizes = st.lists(st.integers(1, 30), min_size=1, max_size=4)
weights = st.integers(0, 12) | st.sampled_from([0.1, 0.25, 0.3, 0.35])


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    drawn = draw(sizes)
    shares = draw(st.lists(weights, min_size=len(drawn), max_size=len(drawn)).filter(any))
    return Mixture(drawn, shares, draw(st.integers(0, 2**64 - 1)))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_every_item_of_one_source_comes_exactly_once_in_an_epoch(size: int, seed: int, epoch: int) -> None:
    items = list(Mixture((size,), seed=seed).items(epoch * size, (epoch + 1) * size))
    assert sorted(item.index for item in items) == list(range(size))
    assert {item.epoch for item in items} == {epoch}


@settings(deadline=None)
@given(mixtures())
def test_every_source_is_gone_through_whole_before_it_begins_again(mixture: Mixture) -> None:
    seen: Counter[tuple[int, int]] = Counter()
    for item in mixture.items(0, 200):
        key = (item.source, item.epoch)
        assert item.epoch == 0 or seen[(item.source, item.epoch - 1)] == mixture.sizes[item.source]
        seen[key] += 1
    assert len({(item.source, item.epoch, item.index) for item in mixture.items(0, 200)}) == 200


@settings(deadline=None)
@given(mixtures(), st.integers(0, 10_000))
def test_resuming_anywhere_gives_the_order_of_the_run_without_a_stop(mixture: Mixture, start: int) -> None:
    again = Mixture(mixture.sizes, mixture.parts, mixture.seed)
    order.cache_clear()
    assert list(again.items(start, start + 20)) == list(mixture.items(0, start + 20))[start:]


@settings(deadline=None)
@given(mixtures(), st.integers(1, 5))
def test_shares_are_exact_after_each_period(mixture: Mixture, periods: int) -> None:
    period = sum(mixture.parts)
    counts = Counter(item.source for item in mixture.items(0, periods * period))
    assert [counts[source] for source in range(len(mixture.parts))] == [periods * part for part in mixture.parts]


@settings(deadline=None)
@given(mixtures(), st.integers(1, 300))
def test_no_source_is_ever_an_item_ahead_of_its_share(mixture: Mixture, stop: int) -> None:
    counts = Counter(item.source for item in mixture.items(0, stop))
    for source, part in enumerate(mixture.parts):
        assert counts[source] < stop * part / sum(mixture.parts) + 1


def test_the_largest_deficit_by_hand() -> None:
    assert [item.source for item in Mixture((9, 9), (2, 1)).items(0, 6)] == [0, 1, 0, 0, 1, 0]


def test_decimal_weights_are_taken_as_written() -> None:
    assert Mixture((9, 9, 9), (0.7, 0.2, 0.1)).parts == (7, 2, 1)
    assert Mixture((9, 9), (1e-3, 1)).parts == (1, 1000)
    assert Mixture((9, 9), (1 / 3, 2 / 3)).parts == (1, 2)


def test_a_weight_of_zero_never_has_a_turn() -> None:
    assert {item.source for item in Mixture((5, 5), (1, 0)).items(0, 50)} == {0}


def test_seeds_sources_and_epochs_have_orders_of_their_own() -> None:
    orders = {tuple(order(20, *key)) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(orders) == 4


def test_all_orders_of_three_items_are_as_likely() -> None:
    counts = Counter(tuple(order(3, seed, 0, 0)) for seed in range(3000))
    assert len(counts) == 6
    assert all(420 < count < 580 for count in counts.values())  # 500 expected, standard deviation 20


def test_the_order_is_pinned_because_a_run_may_resume_on_another_version() -> None:
    assert order(8, 1, 0, 0).tolist() == [3, 5, 2, 7, 0, 6, 1, 4]


@pytest.mark.parametrize(
    ("sizes", "weights", "seed", "message"),
    [
        ((), (), 0, "every source needs at least one item"),
        ((5, 0), (1, 1), 0, "every source needs at least one item: got sizes"),
        ((5, 5), (1,), 0, "1 weights for 2 sources"),
        ((5, 5), (1, -1), 0, "weights must be finite, none below 0"),
        ((5, 5), (1, float("nan")), 0, "weights must be finite"),
        ((5, 5), (0, 0), 0, "and one above"),
        ((5, 5), (0.123456789, 1), 0, "round them"),
        ((5,), (1,), -1, "seed=-1: wanted 0 <= seed"),
    ],
)
def test_impossible_mixtures(sizes: tuple[int, ...], weights: tuple[float, ...], seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(sizes, weights, seed)


def test_a_position_below_zero() -> None:
    with pytest.raises(ValueError, match="position=-1"):
        Mixture((5,)).item(-1)
