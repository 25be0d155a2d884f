"""Which codes a prompt shows: probabilities by hand and by frequency, and what holds whatever the archive is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, permutations
from math import exp, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from postgrad.kernels import exemplars
from postgrad.kernels.archive import Place, Scored
from postgrad.kernels.exemplars import (
    Draw,
    Exemplar,
    View,
    buckets,
    islands,
    nothing,
    partition,
    populations,
    proportional,
    softmax_logits,
    uniform,
    view,
)
from postgrad.kernels.verdict import KernelStatus

REFERENCE = Exemplar("reference", 1.0, "r")
LUCK = 1e-4
"""Frequencies rarer than this are no luck; the draws are counted, so a test that passes goes on passing."""


def known(*scores: float, steps: Sequence[int] | None = None, draws: Sequence[int] | None = None) -> View:
    """Codes named by their index, of these scores."""
    found = [
        Exemplar(f"code {at}", score, f"{at:03}", Place(steps[at] if steps else 1, draws[at] if draws else at, 0))
        for at, score in enumerate(scores)
    ]
    return View("task", REFERENCE, tuple(found))


def drawn(strategy: exemplars.Strategy, seen: View, n: int, times: int = 4000) -> Counter[tuple[str, ...]]:
    return Counter(tuple(one.hash for one in strategy(seen, n, Draw(7, 50, number))) for number in range(times))


def ordered_pairs(weights: Sequence[float]) -> dict[frozenset[int], float]:
    """P of each pair, choosing one after the other without replacement."""
    total = sum(weights)
    pairs: dict[frozenset[int], float] = {}
    for first, second in permutations(range(len(weights)), 2):
        chance = weights[first] / total * weights[second] / (total - weights[first])
        pairs[frozenset((first, second))] = pairs.get(frozenset((first, second)), 0.0) + chance
    return pairs


# ---- Buckets --------------------------------------------------------------------------------------------------------


def test_the_formula_by_hand() -> None:
    """Means 1, 2, 4: mean 7/3, deviation sqrt(14/9), tau half of it."""
    tau = 0.5 * sqrt(14 / 9)
    assert softmax_logits([1.0, 2.0, 4.0]) == pytest.approx([(m - 7 / 3) / tau for m in (1, 2, 4)])
    weights = [exp(logit) for logit in softmax_logits([1.0, 2.0, 4.0])]
    assert [weight / sum(weights) for weight in weights] == pytest.approx([0.0077647, 0.0385961, 0.9536393], abs=1e-6)


def test_the_temperature_has_a_floor() -> None:
    assert softmax_logits([1.0, 1.1]) == pytest.approx([-0.5, 0.5])
    assert softmax_logits([3.0]) == [0.0]
    assert softmax_logits([]) == []


def test_pairs_of_buckets_come_as_often_as_the_formula_says() -> None:
    """Buckets {0}, {1, 2}, {3}: equal scores share one. Means 1.5, 1.8, 2.0; the pair's chances are multiplied by hand."""
    seen = known(1.5, 1.8, 1.8, 2.0)
    assert [[one.hash for one in level] for level in partition(seen.successes)] == [["000"], ["001", "002"], ["003"]]
    tau = 0.5 * sqrt(((1.5 - 5.3 / 3) ** 2 + (1.8 - 5.3 / 3) ** 2 + (2.0 - 5.3 / 3) ** 2) / 3)
    tau = max(tau, 0.1)
    pairs = ordered_pairs([exp(mean / tau) for mean in (1.5, 1.8, 2.0)])
    expected = {
        ("000", "001"): pairs[frozenset((0, 1))] / 2,
        ("000", "002"): pairs[frozenset((0, 1))] / 2,
        ("000", "003"): pairs[frozenset((0, 2))],
        ("001", "003"): pairs[frozenset((1, 2))] / 2,
        ("002", "003"): pairs[frozenset((1, 2))] / 2,
    }
    assert sum(expected.values()) == pytest.approx(1)
    got = drawn(buckets, seen, 2)
    assert {*got} <= {*expected}
    assert chisquare([got[pair] for pair in expected], [4000 * p for p in expected.values()]).pvalue > LUCK


def test_a_test_of_frequencies_would_notice_a_wrong_temperature() -> None:
    pairs = ordered_pairs([exp(mean / 0.2) for mean in (1.5, 1.8, 2.0)])
    got = drawn(buckets, known(1.5, 1.8, 2.0), 2)
    counts = [got["000", "001"], got["000", "002"], got["001", "002"]]
    expected = [4000 * pairs[frozenset(pair)] for pair in ((0, 1), (0, 2), (1, 2))]
    assert chisquare(counts, expected).pvalue < LUCK


def test_quantiles_have_equal_shares() -> None:
    levels = partition(known(*(1.1**at for at in range(100))).successes)
    assert [len(level) for level in levels] == [10] * 10


def test_levels_that_the_clock_cannot_tell_apart_are_one() -> None:
    """1.00 and 1.01 are 1 % apart; their mean 1.005 and 1.03 are 2.5 % apart."""
    levels = partition(known(1.00, 1.01, 1.03).successes)
    assert [[one.score for one in level] for level in levels] == [[1.00, 1.01], [1.03]]
    assert len(partition(known(*[2.0] * 50).successes)) == 1


def test_too_few_buckets_are_completed_by_the_reference_once() -> None:
    assert buckets(known(), 2, Draw(0, 1, 0)) == (REFERENCE,)
    (first, second) = buckets(known(0.8), 2, Draw(0, 1, 0))
    assert (first.hash, second.hash) == ("000", "r"), "the fastest stands last"
    # One level of several codes: one of them, and the reference.
    assert {pair[1] for pair in drawn(buckets, known(2.0, 2.0, 2.0), 2, 200)} == {"000", "001", "002"}
    assert {pair[0] for pair in drawn(buckets, known(2.0, 2.0, 2.0), 2, 200)} == {"r"}


def test_the_references_own_text_is_no_second_exemplar() -> None:
    copies = [
        Scored(text, "cpp", KernelStatus.ACCEPTED, 1.0, place=Place(1, 0, 0)) for text in ("reference\n", "k", "k ")
    ]
    assert [one.code for one in view("task", REFERENCE, copies).successes] == ["k"]


# ---- The others -----------------------------------------------------------------------------------------------------


def test_proportional_pairs_come_as_often_as_by_hand() -> None:
    pairs = ordered_pairs([1.0, 2.0, 5.0])
    assert pairs[frozenset((1, 2))] == pytest.approx(2 / 8 * 5 / 6 + 5 / 8 * 2 / 3)
    got = drawn(proportional, known(1.0, 2.0, 5.0), 2)
    counts = [got["000", "001"], got["000", "002"], got["001", "002"]]
    expected = [4000 * pairs[frozenset(pair)] for pair in ((0, 1), (0, 2), (1, 2))]
    assert chisquare(counts, expected).pvalue > LUCK


def test_uniform_pairs_are_equally_likely_and_blind_to_scores() -> None:
    got = drawn(uniform, known(1.0, 2.0, 50.0, 0.1), 2)
    assert len(got) == 6
    assert chisquare([*got.values()]).pvalue > LUCK


def test_best_of_n_shows_nothing() -> None:
    assert nothing(known(1.0, 2.0), 2, Draw(0, 1, 0)) == ()


def test_an_island_sees_its_own_and_what_the_run_began_with() -> None:
    """Two islands; an answer of step s, prompt d lives on (s + d) % 2."""
    seen = known(1.5, 1.6, 1.7, 1.8, steps=[0, 1, 1, 2], draws=[0, 0, 1, 0])
    even, odd = populations(seen, 0, 3, 2, 100)
    assert [one.hash for one in even] == ["000", "002", "003"]
    assert [one.hash for one in odd] == ["000", "001"]
    strategy = islands(2, 100)
    for number in range(40):
        shown = {one.hash for one in strategy(seen, 3, Draw(number, 3, 1))}
        assert shown == {"000", "002", "003"}
        assert {one.hash for one in strategy(seen, 3, Draw(number, 3, 0))} == {"000", "001", "r"}


def test_a_weak_island_restarts_with_the_best_of_a_strong_one() -> None:
    """Period 2: before step 3 island 1, whose best is 1.2, becomes the best of island 0."""
    seen = known(1.2, 3.0, 2.0, 9.0, steps=[1, 1, 2, 3], draws=[0, 1, 0, 0])
    assert [[one.hash for one in island] for island in populations(seen, 0, 2, 2, 2)] == [["001"], ["000"]]
    assert [[one.hash for one in island] for island in populations(seen, 0, 3, 2, 2)] == [["001", "002"], ["001"]]
    # What is born afterwards lives there as before.
    assert [[one.hash for one in island] for island in populations(seen, 0, 4, 2, 2)] == [
        ["001", "002"],
        ["001", "003"],
    ]


def test_clusters_come_as_often_as_by_hand_and_short_codes_more_often() -> None:
    """One cluster of two codes of lengths 10 and 40: weights exp(-10/40) and exp(-1)."""
    pair = (Exemplar("s" * 10, 2.0, "short", Place(0, 0, 0)), Exemplar("l" * 40, 2.0, "long", Place(0, 1, 0)))
    got = drawn(islands(2, 100), View("task", REFERENCE, pair), 1)
    expected = exp(-0.25) / (exp(-0.25) + exp(-1))
    assert chisquare([got["short",], got["long",]], [4000 * expected, 4000 * (1 - expected)]).pvalue > LUCK


@pytest.mark.parametrize(("number", "period"), [(1, 5), (4, 0)])
def test_islands_need_company_and_time(number: int, period: int) -> None:
    with pytest.raises(ValueError, match="wanted two islands or more"):
        islands(number, period)


# ---- Whatever the archive is ----------------------------------------------------------------------------------------

STRATEGIES = [buckets, islands(2, 3), islands(5, 1), proportional, uniform]
SCORES = st.lists(st.floats(0.01, 500).map(lambda score: round(score, 2)).filter(bool), max_size=40)


@given(SCORES, st.integers(1, 5), st.integers(0, 2**40), st.integers(1, 12), st.sampled_from(STRATEGIES), st.data())
def test_exemplars_are_known_distinct_and_ordered(
    scores: list[float], n: int, seed: int, step: int, strategy: exemplars.Strategy, data: st.DataObject
) -> None:
    steps = [data.draw(st.integers(0, step - 1)) for _ in scores]
    seen = known(*scores, steps=steps)
    draw = Draw(seed, step, data.draw(st.integers(0, 9)))
    shown = strategy(seen, n, draw)
    assert {*shown} <= {*seen.successes, REFERENCE}
    assert len({one.hash for one in shown}) == len(shown) <= n
    assert [one.score for one in shown] == sorted(one.score for one in shown)
    assert shown
    assert len(shown) == n or REFERENCE in shown, "the reference joins where there are too few"
    assert strategy(seen, n, draw) == shown, "a choice is a function of what is known and of the draw"


@given(SCORES)
def test_buckets_are_a_partition_of_distinct_levels(scores: list[float]) -> None:
    levels = partition(known(*scores).successes)
    assert sorted(one.hash for level in levels for one in level) == [f"{at:03}" for at in range(len(scores))]
    assert len(levels) <= 10
    means = [sum(one.score for one in level) / len(level) for level in levels]
    for (low, high), (mean, above) in zip(pairwise(levels), pairwise(means), strict=True):
        assert max(one.score for one in low) < min(one.score for one in high)
        assert above >= mean * 1.02 * (1 - 1e-12)


def test_draws_differ_by_seed_task_step_and_number() -> None:
    seen = known(*range(1, 60))
    draws = [Draw(0, 2, 0), Draw(1, 2, 0), Draw(0, 3, 0), Draw(0, 2, 1)]
    shown = [uniform(seen, 5, draw) for draw in draws]
    shown.append(uniform(View("other", REFERENCE, seen.successes), 5, draws[0]))
    assert len({*shown}) == 5


def test_the_numbers_of_a_draw_are_fixed() -> None:
    """A resumed run, and another version, choose the same."""
    assert [one.hash for one in uniform(known(*range(1, 60)), 3, Draw(5, 6, 7))] == ["002", "003", "051"]
