"""From the ratios of paired rounds to one number: buckets, their median, its interval, rounding toward 1 (CUDA-L1, arXiv 2507.14111, Eq. 3).

    r_i = t_reference,i / t_candidate,i;   m_j = exp(mean of log r_i in bucket j);   r = median of m_j
    r >= 1: floor(100 r) / 100;   r < 1: ceil(100 r) / 100

The paper takes means of the ratios themselves. We take them of the logarithms: noise in the denominator raises a mean of
ratios (a kernel against itself comes out at 1 + the variance of the noise; with one call in ten three times as slow, 1.12),
and exchanging the two sides must give 1 / r. Buckets hold 10 rounds (the released evaluator's number) and there are at least
8 of them, not 7: eight are the fewest whose smallest and largest bound a median at 99 %. More rounds give more buckets, so one outlier
never weighs on more than one in n. Nothing else is done about outliers. The gate's variance is of the paper's few large buckets: eight equal parts
of all rounds, because a part's mean must settle as a measurement gets longer, and that of 10 rounds never does.

The interval is of order statistics of the bucket means, which assumes no shape of the noise. Where it holds 1 the speed-up is 1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import pairwise

COUNTS_ABOVE = 1.01
"""A speed-up at or below this one is none (the paper's)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    bucket_means: tuple[float, ...]
    ratio: float
    interval: tuple[float, float]
    variance: float
    """Of the mean logarithms of `buckets` equal parts of the rounds: near 1 that of the ratios, and free of their size."""

    @property
    def speedup(self) -> float:
        return 1.0 if self.interval[0] <= 1 <= self.interval[1] else rounded(self.ratio)

    @property
    def half_width(self) -> float:
        """Of the interval, relative."""
        return math.log(self.interval[1] / self.interval[0]) / 2


def estimate(ratios: Sequence[float], *, bucket_rounds: int, buckets: int, level: float) -> Estimate | None:
    """None where there are fewer ratios than `buckets`. Ratios must be above 0 and finite.

    Buckets are consecutive and of nearly equal size: 10 rounds each, fewer where 10 would not give enough of them.
    """
    if len(ratios) < buckets:
        return None
    logs = [math.log(ratio) for ratio in ratios]
    means = _means(logs, max(buckets, len(logs) // bucket_rounds))
    low, high = median_interval(means, level)
    return Estimate(
        bucket_means=tuple(math.exp(mean) for mean in means),
        ratio=math.exp(statistics.median(means)),
        interval=(math.exp(low), math.exp(high)),
        variance=statistics.variance(_means(logs, buckets)),
    )


def _means(values: Sequence[float], number: int) -> list[float]:
    """Of `number` consecutive parts of nearly equal size."""
    edges = [len(values) * index // number for index in range(number + 1)]
    return [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]


def median_interval(values: Sequence[float], level: float) -> tuple[float, float]:
    """The order statistics that hold the median of their distribution with a chance of at least `level`.

    Raises ValueError where even the smallest and the largest do not.
    """
    n, cut, below = len(values), 0, 0.0
    # P(fewer than `cut + 1` of n fall below the median) stays within half of what may be missed.
    while (below := below + math.comb(n, cut) / 2**n) <= (1 - level) / 2:
        cut += 1
    if not cut:
        raise ValueError(f"{n} values cannot bound a median at {level:.0%}: give more, or a lower level")
    ordered = sorted(values)
    return ordered[cut - 1], ordered[n - cut]


def rounded(ratio: float) -> float:
    """Toward 1 at two decimals: 1.118 -> 1.11, 0.992 -> 1.0. On the decimal digits: 1.15 * 100 is below 115 in floats."""
    toward = ROUND_FLOOR if ratio >= 1 else ROUND_CEILING
    return float(Decimal(repr(ratio)).quantize(Decimal("0.01"), rounding=toward))


def counts(speedup: float | None) -> bool:
    return speedup is not None and speedup > COUNTS_ABOVE
