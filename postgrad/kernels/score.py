"""What a set of verdicts amounts to: fast_p, geometric mean, median and mean of the speed-ups, with intervals over tasks.

    fast_p = (1 / n) sum of 1[accepted and speed-up > p]      (KernelBench, arXiv 2502.10517); p = 0 is the share of right kernels

One verdict for each task. Rejected and suspicious ones count as failures in fast_p; unchecked ones are ours, leave it and are counted.
Means and the median are over accepted verdicts only, as KernelBench's geometric mean is, so they say nothing without fast_0 beside.

Intervals are percentile bootstraps over tasks. Where all tasks are alike a bootstrap has no width: a share then gets the one that n tasks can
still hide, 1 - (alpha / 2)^(1 / n) (Clopper and Pearson at 0).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postgrad.kernels.verdict import ACCEPTED, REJECTED, SUSPICIOUS, UNCHECKED, KernelStatus, KernelVerdict

LEVELS = (0.0, 0.5, 0.8, 1.0, 1.5, 2.0)
RESAMPLES = 10_000

Row = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Value:
    value: float
    interval: tuple[float, float]
    n: int
    """Tasks that it rests on."""


@dataclass(frozen=True, slots=True)
class Score:
    fast: dict[str, Value | None]
    """p, as "0.5" -> share. None where every verdict is unchecked."""
    geomean: Value | None
    """None, and so the next two, where nothing was accepted."""
    median: Value | None
    mean: Value | None
    counts: dict[KernelStatus, int]


def score(verdicts: Sequence[KernelVerdict], *, seed: int = 0, level: float = 0.95) -> Score:
    """Raises ValueError where a task has two verdicts: choose one first, and count what choosing cost."""
    names = [verdict.task for verdict in verdicts]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"one verdict for each task is wanted, {', '.join(twice[:5])} has several: choose one first")
    checked = [verdict for verdict in verdicts if verdict.status is not UNCHECKED]
    # A failure is faster than no p, not even 0.
    speeds = np.array([v.speedup if v.status is ACCEPTED else -1 for v in checked], dtype=np.float64)
    accepted = speeds[speeds >= 0]

    def number(statistic: Callable[[Row], Row]) -> Value | None:
        return _value(accepted, statistic, seed, level) if len(accepted) else None

    return Score(
        fast={f"{p:g}": _share(speeds > p, seed, level) if len(speeds) else None for p in LEVELS},
        geomean=number(_geomean),
        median=number(_median),
        mean=number(_mean),
        counts={
            status: sum(verdict.status is status for verdict in verdicts)
            for status in (ACCEPTED, SUSPICIOUS, UNCHECKED, REJECTED)
        },
    )


def with_and_without(
    verdicts: Sequence[KernelVerdict], degenerate: Collection[str], *, seed: int = 0
) -> dict[str, Score]:
    """{"all": ..., "without_degenerate": ...}; `degenerate` names tasks whose answer needs no work, as admission or METR's list has them."""
    kept = [verdict for verdict in verdicts if verdict.task not in degenerate]
    return {"all": score(verdicts, seed=seed), "without_degenerate": score(kept, seed=seed)}


def _geomean(rows: Row) -> Row:
    return np.asarray(np.exp(np.log(rows).mean(axis=-1)))


def _median(rows: Row) -> Row:
    return np.asarray(np.median(rows, axis=-1))


def _mean(rows: Row) -> Row:
    return np.asarray(rows.mean(axis=-1))


def _value(values: Row, statistic: Callable[[Row], Row], seed: int, level: float) -> Value:
    found = statistic(_resampled(values, seed))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Value(float(statistic(values)), (float(low), float(high)), len(values))


def _share(outcomes: NDArray[np.bool_], seed: int, level: float) -> Value:
    found = _value(outcomes.astype(np.float64), _mean, seed, level)
    if 0 < found.value < 1:
        return found
    hidden = 1 - ((1 - level) / 2) ** (1 / found.n)
    return Value(found.value, (0.0, hidden) if found.value == 0 else (1 - hidden, 1.0), found.n)


def _resampled(values: Row, seed: int) -> Row:
    """[RESAMPLES, tasks] with replacement."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    return values[drawn]
