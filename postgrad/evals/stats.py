"""Numbers with their uncertainty: rates, means, paired differences, pass@k, majority votes, rank correlation.

Data come as `Clusters`: one row of values for each problem, one value for each of its samples. Samples of a problem are
not independent, so every interval here treats the problem as the unit. A problem without values (none of its traces
could be checked) is left out; where nothing is left it is an error, not a zero.

Intervals are at `level` (0.95) and resampling is seeded. The percentile bootstrap sees no more than its data: values
that are all equal give an interval of no width, so rates have their own functions, which do not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Clusters = Sequence[Sequence[float]]
"""[P][samples of that problem]"""


@dataclass(frozen=True, slots=True)
class Estimate:
    value: float
    interval: tuple[float, float]
    n: int
    """Values it rests on; for paired estimates, problems."""

    def to_summary(self) -> dict[str, Any]:
        return {"value": self.value, "interval": list(self.interval), "n": self.n}


def rate(successes: int, trials: int, level: float = 0.95) -> Estimate:
    """A share of independent trials with Wilson's score interval, which stays in [0, 1] and is not empty at 0 or 1."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"a rate needs 0 <= successes <= trials and at least one trial, not {successes} of {trials}")
    return Estimate(successes / trials, _wilson(successes / trials, trials, level), trials)


def clustered_rate(outcomes: Clusters, level: float = 0.95) -> Estimate:
    """A share of outcomes (each 0 or 1) with Wilson's interval at the effective number of independent trials.

    That number is n divided by the design effect, the variance of the ratio estimate between problems over that of n
    independent trials (Korn and Graubard, 1998); never more than n. Where every outcome is the same the design effect
    is unknown and the number of problems is used. With one sample for each problem it is `rate`, nearly.
    """
    rows = [row for row in outcomes if len(row)]
    n = sum(len(row) for row in rows)
    if n == 0:
        raise ValueError("a rate of nothing: no outcome is given")
    value = sum(sum(row) for row in rows) / n
    if n == len(rows):
        return Estimate(value, _wilson(value, n, level), n)
    effective: float = len(rows)
    if 0 < value < 1 and len(rows) > 1:
        residuals = [sum(row) - value * len(row) for row in rows]
        variance = len(rows) / (len(rows) - 1) * math.fsum(residual**2 for residual in residuals) / n**2
        effective = min(n, value * (1 - value) / variance) if variance else n
    return Estimate(value, _wilson(value, effective, level), n)


def _wilson(value: float, n: float, level: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return (0.0 if value == 0 else max(0.0, centre - half), 1.0 if value == 1 else min(1.0, centre + half))


def mean(values: Clusters, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95) -> Estimate:
    """The mean of all values, with the percentile bootstrap over problems."""
    table = np.array([(math.fsum(row), len(row)) for row in values if len(row)], dtype=np.float64).reshape(-1, 2)
    if not len(table):
        raise ValueError("a mean of nothing: no value is given")
    total, count = table.sum(axis=0)
    sums = _resampled_sums(table, resamples, seed)
    return Estimate(float(total / count), _percentiles(sums[:, 0] / sums[:, 1], level), int(count))


def paired_difference(
    before: Clusters, after: Clusters, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """mean(after) - mean(before) on the same problems, with the paired percentile bootstrap over problems.

    A problem that has no value on one side is left out of both; `n` counts the problems that are left.
    """
    table = _paired_table(before, after)
    return _paired(table, _difference, resamples, seed, level)


def paired_rate_difference(
    before: Clusters, after: Clusters, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """`paired_difference` of outcomes that are 0 or 1, whose interval keeps a width where all problems changed alike.

    Three problems solved by both models say little about the rest. There the interval reaches 1 - (alpha / 2)^(1 / P)
    to either side, the share of differing problems that P problems can still hide (Clopper and Pearson at 0).
    """
    found = paired_difference(before, after, resamples=resamples, seed=seed, level=level)
    if found.interval[0] < found.interval[1]:
        return found
    reach = 1 - ((1 - level) / 2) ** (1 / found.n)
    return Estimate(found.value, (max(-1.0, found.value - reach), min(1.0, found.value + reach)), found.n)


def paired_drop(
    before: Clusters, after: Clusters, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """1 - mean(after) / mean(before): the share saved on the same problems, resampled as in `paired_difference`."""
    table = _paired_table(before, after)
    if (table[:, 0] <= 0).any():
        raise ValueError("a relative drop needs, for every problem, values above 0 before")
    return _paired(table, _drop, resamples, seed, level)


class Equivalence(NamedTuple):
    difference: Estimate
    """Its interval is at level 1 - 2 alpha."""
    margin: float
    holds: bool


def equivalence(
    before: Clusters, after: Clusters, margin: float, *, alpha: float = 0.05, resamples: int = 10_000, seed: int = 0
) -> Equivalence:
    """Two one-sided tests (TOST) of two rates: equal to within `margin` where the interval lies inside +-margin.

    Not significantly different is not equivalent: few problems give a wide interval, and this does not hold.
    """
    if not margin > 0:
        raise ValueError(f"the margin of equivalence must be above 0, not {margin}")
    difference = paired_rate_difference(before, after, resamples=resamples, seed=seed, level=1 - 2 * alpha)
    return Equivalence(difference, margin, -margin < difference.interval[0] and difference.interval[1] < margin)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of the n samples hold a correct one (arXiv 2107.03374), unbiased.

    (8, 2, 4) -> 0.7857.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= correct <= n and 1 <= k <= n, not n={n}, correct={correct}, k={k}")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[float], k: int) -> float:
    """The chance that the most frequent answer among k of the n samples is correct; exact, ties split evenly.

    `answers` are equal where the answers are equal (normalise them first); None casts no vote, and k samples without
    any vote are wrong. An answer that is marked correct in part of its samples counts by that part.
    """
    n = len(answers)
    if not 1 <= k <= n:
        raise ValueError(f"maj@k needs 1 <= k <= n, not n={n}, k={k}")
    right: dict[Hashable, list[float]] = {}
    for answer, share in zip(answers, correct, strict=True):
        if answer is not None:
            right.setdefault(answer, []).append(share)
    sizes = [len(shares) for shares in right.values()]
    by_size: dict[int, float] = {}
    for shares in right.values():
        by_size[len(shares)] = by_size.get(len(shares), 0.0) + sum(shares) / len(shares)
    won = math.fsum(share * _ways_to_win(size, sizes, n - sum(sizes), k) for size, share in by_size.items() if share)
    return won / math.comb(n, k)


def _ways_to_win(size: int, sizes: Sequence[int], silent: int, k: int) -> float:
    """Draws of k in which one given answer, held by `size` samples, has most votes; a tie of t answers counts 1/t."""
    others = list(sizes)
    others.remove(size)
    won = 0.0
    for most in range(1, min(size, k) + 1):
        ways = {(drawn, 0): math.comb(silent, drawn) for drawn in range(min(silent, k - most) + 1)}
        for other in others:
            grown: Counter[tuple[int, int]] = Counter()
            for (drawn, ties), count in ways.items():
                for votes in range(min(other, most, k - most - drawn) + 1):
                    grown[drawn + votes, ties + (votes == most)] += count * math.comb(other, votes)
            ways = grown
        shares = math.fsum(count / (ties + 1) for (drawn, ties), count in ways.items() if drawn == k - most)
        won += math.comb(size, most) * shares
    return won


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Rank correlation, in [-1, 1], ties at their mean rank; None where one side is constant, and so has no order."""
    if len(one) != len(other) or len(one) < 2:
        raise ValueError(f"a rank correlation needs two or more pairs, not {len(one)} and {len(other)} values")
    a, b = _ranks(one), _ranks(other)
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm else None


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    row = np.asarray(values, dtype=np.float64)
    below = (row[:, None] > row[None, :]).sum(axis=1)
    equal = (row[:, None] == row[None, :]).sum(axis=1)
    return np.asarray(below + (equal + 1) / 2, dtype=np.float64)


# ---- Resampling -----------------------------------------------------------------------------------------------------


def _paired_table(before: Clusters, after: Clusters) -> NDArray[np.float64]:
    """[P, 4]: sum and count before, sum and count after, of the problems that have both."""
    if len(before) != len(after):
        raise ValueError(f"a paired comparison needs the same problems: {len(before)} before, {len(after)} after")
    rows = [
        (math.fsum(old), len(old), math.fsum(new), len(new))
        for old, new in zip(before, after, strict=True)
        if len(old) and len(new)
    ]
    if not rows:
        raise ValueError("a paired comparison of nothing: no problem has values on both sides")
    return np.array(rows, dtype=np.float64)


Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _difference(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1])


def _drop(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 - (sums[:, 2] / sums[:, 3]) / (sums[:, 0] / sums[:, 1]))


def _paired(table: NDArray[np.float64], statistic: Statistic, resamples: int, seed: int, level: float) -> Estimate:
    value = float(statistic(table.sum(axis=0, keepdims=True))[0])
    return Estimate(value, _percentiles(statistic(_resampled_sums(table, resamples, seed)), level), len(table))


def _resampled_sums(table: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Column sums of `resamples` draws of len(table) rows with replacement: [P, C] -> [resamples, C].

    Equal rows are drawn together by their number (multinomial): the same distribution, and a 0/1 comparison of a
    thousand problems has four distinct rows.
    """
    distinct, counts = np.unique(table, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    chunk = max(1, 2_000_000 // len(distinct))
    sums = [
        rng.multinomial(len(table), counts / len(table), size=min(chunk, resamples - start)) @ distinct
        for start in range(0, resamples, chunk)
    ]
    return np.concatenate(sums)


def _percentiles(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
