"""How fast right answers are, where a verdict's score is a speed-up: measures of one model, paired comparisons of two.

    correct   share of answers                            speedup  geometric mean over right answers
    fast      share of answers right and above 1.01x      kept     geometric mean, the reference kept where wrong or slower
    best      geometric mean of each problem's fastest answer, the reference kept where none is faster

What could not be checked is in none of them. Intervals treat the problem as the unit (stats.py); means and differences are of
logarithms, so that twice as fast and half as fast cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from postgrad.evals import stats
from postgrad.evals.stats import Clusters, Estimate
from postgrad.records import Graded, Status

FASTER = 1.01
"""Below it CUDA-L1's article counts no speed-up."""
MEASURES = ("correct", "speedup", "fast", "kept", "best")
Grades = Sequence[Sequence[Graded]]


def measures(rows: Grades, *, resamples: int = 10_000, seed: int = 0) -> dict[str, Estimate | None]:
    """By name; None where nothing could be checked, or nothing is right."""
    right = checked(rows, is_right)
    if not any(right):
        return dict.fromkeys(MEASURES)
    how: dict[str, Any] = {"resamples": resamples, "seed": seed}
    logs = speeds(rows)
    return {
        "correct": stats.clustered_rate(right),
        "speedup": _exp(stats.mean(logs, **how)) if any(logs) else None,
        "fast": stats.clustered_rate(checked(rows, is_fast)),
        "kept": _exp(stats.mean(checked(rows, kept), **how)),
        "best": _exp(stats.mean(best(rows), **how)),
    }


def compare(before: Grades, after: Grades, *, resamples: int = 10_000, seed: int = 0) -> dict[str, Estimate]:
    """Differences of the two shares, ratios of the three speeds, paired by problem. What no problem has on both sides is left out."""
    how: dict[str, Any] = {"resamples": resamples, "seed": seed}
    found: dict[str, Estimate] = {}
    for name, one in (("correct", is_right), ("fast", is_fast)):
        old, new = checked(before, one), checked(after, one)
        if _both(old, new):
            found[f"{name} difference"] = stats.paired_rate_difference(old, new, **how)
    pairs = {
        "speedup": (speeds(before), speeds(after)),
        "kept": (checked(before, kept), checked(after, kept)),
        "best": (best(before), best(after)),
    }
    return found | {f"{name} ratio": told for name, (a, b) in pairs.items() if (told := ratio(a, b, **how)) is not None}


def ratio(before: Clusters, after: Clusters, *, resamples: int = 10_000, seed: int = 0) -> Estimate | None:
    """Of geometric means, paired, from logarithms; None where no problem has values on both sides."""
    if not _both(before, after):
        return None
    return _exp(stats.paired_difference(before, after, resamples=resamples, seed=seed))


def by_label(rows: Grades, label: str) -> dict[str, tuple[float | None, float | None]]:
    """Value of the label -> share of right answers, geometric mean of their speed-ups; None where there is nothing to count."""
    values = sorted({row[0].problem.labels[label] for row in rows if row})
    found = {}
    for value in values:
        mine = [row for row in rows if row and row[0].problem.labels[label] == value]
        right = [each for row in checked(mine, is_right) for each in row]
        logs = [each for row in speeds(mine) for each in row]
        share = sum(right) / len(right) if right else None
        found[value] = share, math.exp(sum(logs) / len(logs)) if logs else None
    return found


# ---- One answer -----------------------------------------------------------------------------------------------------


def speeds(rows: Grades) -> list[list[float]]:
    """Logarithms of the speed-ups of what is right, by problem."""
    return [[math.log(score) for item in row if (score := speedup(item)) is not None] for row in rows]


def speedup(item: Graded) -> float | None:
    """None for what is not right."""
    return item.verdict.score if item.verdict.status is Status.CORRECT else None


def checked(rows: Grades, one: Callable[[float | None], float]) -> list[list[float]]:
    """`one` of every checked answer's speed-up, None for a failure, by problem."""
    return [[one(speedup(item)) for item in row if item.verdict.status is not Status.UNCHECKED] for row in rows]


def is_right(score: float | None) -> float:
    return float(score is not None)


def is_fast(score: float | None) -> float:
    return float(score is not None and score > FASTER)


def kept(score: float | None) -> float:
    """The logarithm of what one is left with who keeps the reference where the answer is wrong or slower."""
    return 0.0 if score is None else math.log(max(1.0, score))


def best(rows: Grades) -> list[list[float]]:
    """By problem the best that its answers leave one with; empty where none could be checked."""
    return [[max(row)] if row else [] for row in checked(rows, kept)]


def _both(old: Clusters, new: Clusters) -> bool:
    return any(len(a) and len(b) for a, b in zip(old, new, strict=True))


def _exp(estimate: Estimate) -> Estimate:
    low, high = estimate.interval
    return Estimate(math.exp(estimate.value), (math.exp(low), math.exp(high)), estimate.n)


def summary(found: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {name: None if one is None else one.to_summary() for name, one in found.items()}
