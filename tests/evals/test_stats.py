"""Statistics: worked values, scipy and brute force as judges, coverage by simulation, and what must be refused."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, spearmanr

from postgrad.evals import stats
from postgrad.evals.stats import (
    Estimate,
    clustered_rate,
    equivalence,
    maj_at_k,
    mean,
    paired_difference,
    paired_drop,
    paired_rate_difference,
    pass_at_k,
    rate,
    spearman,
)

# ---- rates


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (0, 30), (30, 30), (7, 30), (512, 1000), (1, 100_000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_agrees_with_scipy(successes: int, trials: int, level: float) -> None:
    estimate = rate(successes, trials, level)
    expected = binomtest(successes, trials).proportion_ci(confidence_level=level, method="wilson")
    assert estimate.interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (estimate.value, estimate.n) == (successes / trials, trials)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (2, 1), (-1, 3)])
def test_a_rate_of_nothing_is_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="at least one trial"):
        rate(successes, trials)


def test_one_sample_for_each_problem_is_the_plain_rate() -> None:
    outcomes = [[1.0], [0.0], [], [1.0], [1.0]]
    assert clustered_rate(outcomes) == rate(3, 4)


def test_samples_that_always_agree_are_worth_one() -> None:
    outcomes = [[1.0] * 10] * 60 + [[0.0] * 10] * 40
    estimate = clustered_rate(outcomes)
    assert (estimate.value, estimate.n) == (0.6, 1000)
    assert estimate.interval == pytest.approx(rate(60, 100).interval, abs=2e-3)


def test_samples_that_never_agree_are_worth_no_more_than_all_of_them() -> None:
    assert clustered_rate([[1.0, 0.0]] * 50).interval == rate(50, 100).interval


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_alike_still_leaves_doubt(value: float) -> None:
    estimate = clustered_rate([[value] * 8] * 20)
    assert estimate.interval == pytest.approx(rate(int(20 * value), 20).interval)


def test_empty_statistics_are_errors_not_zeros() -> None:
    for function in (clustered_rate, mean):
        with pytest.raises(ValueError, match="of nothing"):
            function([[], []])
    with pytest.raises(ValueError, match="of nothing"):
        paired_difference([[1.0], []], [[], [1.0]])


# ---- means and pairs


def test_mean_weighs_values_and_resamples_problems() -> None:
    estimate = mean([[1.0, 3.0], [8.0], []], resamples=500)
    assert (estimate.value, estimate.n) == (4.0, 3)
    assert estimate.interval == (2.0, 8.0)  # the two problems drawn twice


def test_resampling_is_seeded() -> None:
    values = [[float(value)] for value in range(50)]
    assert mean(values, seed=1) == mean(values, seed=1)
    assert mean(values, seed=1).interval != mean(values, seed=2).interval


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    low, high = mean([[value] for value in values.tolist()]).interval
    half = 1.96 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_resampling_equal_rows_together_is_resampling_rows() -> None:
    table = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [5.0, 2.0]])
    sums = stats._resampled_sums(table, 50_000, seed=0)
    assert sums.mean(axis=0) == pytest.approx(table.sum(axis=0), abs=0.1)
    assert np.cov(sums.T) == pytest.approx(4 * np.cov(table.T, ddof=0), abs=0.3)


def test_paired_difference_uses_the_pairing() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(300)
    before = [[value] for value in hard.tolist()]
    after = [[value + 0.1] for value in hard.tolist()]
    estimate = paired_difference(before, after)
    assert estimate.value == pytest.approx(0.1)
    assert estimate.interval == pytest.approx((0.1, 0.1))
    shuffled = paired_difference(before, [after[index] for index in rng.permutation(300)])
    assert shuffled.interval[1] - shuffled.interval[0] > 0.05


def test_a_problem_missing_on_one_side_leaves_both() -> None:
    estimate = paired_difference([[1.0], [100.0], [2.0, 4.0]], [[2.0], [], [5.0]])
    assert estimate.value == pytest.approx(3.5 - 7 / 3)
    assert estimate.n == 2


def test_paired_drop_by_hand() -> None:
    estimate = paired_drop([[10.0], [30.0]], [[5.0], [25.0]], resamples=200)
    assert estimate.value == 0.25
    assert estimate.interval == pytest.approx((1 / 6, 0.5))
    with pytest.raises(ValueError, match="above 0"):
        paired_drop([[0.0]], [[1.0]])


def test_paired_data_must_have_the_same_problems() -> None:
    with pytest.raises(ValueError, match="2 before, 1 after"):
        paired_difference([[1.0], [1.0]], [[1.0]])


def test_no_change_in_few_problems_is_no_proof_of_equality() -> None:
    ones = [[1.0]] * 3
    assert paired_difference(ones, ones).interval == (0.0, 0.0)
    estimate = paired_rate_difference(ones, ones)
    assert estimate.interval == pytest.approx((-0.70760, 0.70760), abs=1e-5)  # 1 - 0.025 ** (1 / 3)
    assert not equivalence(ones, ones, 0.01).holds
    many = [[1.0]] * 1000
    assert equivalence(many, many, 0.01).holds


def test_equivalence_is_two_one_sided_tests() -> None:
    before = [[1.0], [0.0]] * 1000
    after = [[1.0], [0.0]] * 995 + [[0.0], [1.0]] * 5
    close = equivalence(before, after, 0.01)
    assert close.holds
    assert close.difference.interval == paired_difference(before, after, level=0.9).interval
    worse = [[1.0], [0.0]] * 980 + [[0.0], [0.0]] * 20
    assert not equivalence(before, worse, 0.01).holds
    with pytest.raises(ValueError, match="above 0"):
        equivalence(before, after, 0.0)


# ---- coverage


def test_wilson_covers_as_promised() -> None:
    for share, trials in ((0.5, 200), (0.8, 200), (0.93, 400)):
        outcomes = np.random.default_rng(7).binomial(trials, share, 4000)
        intervals = {int(count): rate(int(count), trials).interval for count in np.unique(outcomes)}
        covered = [intervals[int(count)][0] <= share <= intervals[int(count)][1] for count in outcomes]
        assert 0.93 <= np.mean(covered) <= 0.97


def test_clustered_rate_covers_where_the_plain_rate_does_not() -> None:
    rng = np.random.default_rng(11)
    clustered, plain = [], []
    for _ in range(1000):
        outcomes = (rng.random((150, 8)) < rng.beta(0.8, 0.4, (150, 1))).astype(float)
        inside = clustered_rate(outcomes.tolist()).interval
        naive = rate(int(outcomes.sum()), outcomes.size).interval
        clustered.append(inside[0] <= 2 / 3 <= inside[1])
        plain.append(naive[0] <= 2 / 3 <= naive[1])
    assert 0.93 <= np.mean(clustered) <= 0.97
    assert np.mean(plain) < 0.8


@pytest.mark.parametrize("samples", [1, 4])
def test_paired_bootstrap_covers_as_promised(samples: int) -> None:
    """Two models that share each problem's difficulty; the second is 5 points better. (Over 6,000 runs: 94.7 %.)"""
    rng = np.random.default_rng(samples)
    covered = []
    for run in range(1500):
        easy = rng.beta(4, 2, (300, 1)) * 0.95
        before = (rng.random((300, samples)) < easy).astype(float)
        after = (rng.random((300, samples)) < easy + 0.05).astype(float)
        low, high = paired_difference(before.tolist(), after.tolist(), resamples=600, seed=run).interval
        covered.append(low <= 0.05 <= high)
    assert 0.93 <= np.mean(covered) <= 0.97


# ---- pass@k and maj@k


@pytest.mark.parametrize(
    ("n", "correct", "k", "expected"),
    [(8, 2, 4, 0.7857142857), (10, 3, 1, 0.3), (10, 3, 5, 0.9166666667), (4, 0, 4, 0.0), (4, 1, 4, 1.0)],
)
def test_pass_at_k_vectors(n: int, correct: int, k: int, expected: float) -> None:
    assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 5, 1), (4, 1, 5), (4, 1, 0), (0, 0, 1)])
def test_pass_at_k_refuses_what_cannot_be_drawn(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, correct, k)


def drawn_majority(answers: list[str | None], correct: list[float], k: int) -> float:
    """maj@k by listing every draw."""
    share = {answer: np.mean([c for a, c in zip(answers, correct, strict=True) if a == answer]) for answer in answers}
    values = []
    for draw in itertools.combinations(answers, k):
        votes = {answer: draw.count(answer) for answer in draw if answer is not None}
        winners = [answer for answer, count in votes.items() if count == max(votes.values())]
        values.append(float(np.mean([share[answer] for answer in winners])) if winners else 0.0)
    return float(np.mean(values))


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.booleans()), min_size=1, max_size=7), st.data())
def test_maj_at_k_is_the_mean_over_all_draws(rows: list[tuple[str | None, bool]], data: st.DataObject) -> None:
    answers, correct = [answer for answer, _ in rows], [float(right) for _, right in rows]
    k = data.draw(st.integers(1, len(rows)))
    assert maj_at_k(answers, correct, k) == pytest.approx(drawn_majority(answers, correct, k))


def test_maj_at_k_splits_ties_and_ignores_the_silent() -> None:
    assert maj_at_k(["8", "8", "9"], [1, 1, 0], 3) == 1.0
    assert maj_at_k(["8", "9"], [1, 0], 2) == 0.5
    assert maj_at_k(["8", None, None], [1, 0, 0], 3) == 1.0
    assert maj_at_k([None, None], [0, 0], 2) == 0.0
    assert maj_at_k(list(range(64)), [1.0] + [0.0] * 63, 64) == pytest.approx(1 / 64)
    with pytest.raises(ValueError, match="maj@k needs"):
        maj_at_k(["8"], [1], 2)


# ---- ranks


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_spearman_agrees_with_scipy(rows: list[tuple[int, int]]) -> None:
    one, other = [float(a) for a, _ in rows], [float(b) for _, b in rows]
    found = spearman(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(float(spearmanr(one, other).statistic))


def test_spearman_refuses_what_has_no_order() -> None:
    assert spearman([1, 2, 3, 4, 5], [10, 20, 30, 40, 500]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two or more pairs"):
        spearman([1.0], [1.0])


def test_an_estimate_is_a_value_with_its_interval_and_count() -> None:
    assert Estimate(0.5, (0.4, 0.6), 10).to_summary() == {"value": 0.5, "interval": [0.4, 0.6], "n": 10}
    assert all(math.isfinite(bound) for bound in rate(1, 3).interval)
