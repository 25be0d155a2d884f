"""Which earlier codes a prompt shows: one function a strategy, all `(View, n, Draw) -> exemplars`.

    buckets         N distinct levels of performance, better ones likelier (CUDA-L1, arXiv 2507.14111, section 3.3)
    islands(4, 8)   sub-populations that see only themselves, weak ones replaced now and then (FunSearch, Nature 625, 2024)
    proportional    codes in proportion to their speed-up
    uniform         any codes
    nothing         none: best-of-N

Every choice is without replacement, the fastest last, and shows no code twice. Where a strategy finds fewer than n codes the
reference joins them with its score of 1; there may then still be fewer than n. Chance is counted: a choice is a function of the view
and of (seed, task, step, number), so a resumed run chooses as the first would have.

Choosing k of weighted items, one after the other without replacement, is taking the k largest of log(weight) + Gumbel noise
(Gumbel-top-k; Kool et al., arXiv 1903.06059).
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from random import Random
from statistics import fmean, pstdev
from typing import TypeVar

from postgrad.kernels.archive import Place, Scored

T = TypeVar("T")

MOST_BUCKETS = 10
APART = 1.02
"""Neighbouring buckets' means differ by this factor at least: below it, levels are noise of the clock."""
SPREAD = 0.5
"""Temperature in standard deviations of the buckets' means; the paper does not give its own."""
LEAST_TEMPERATURE = 0.1


@dataclass(frozen=True, slots=True)
class Exemplar:
    code: str
    score: float
    """Speed-up over the task's reference, which itself has 1."""
    hash: str
    place: Place | None = None
    """Where it came from; None: the reference."""


@dataclass(frozen=True, slots=True)
class View:
    """What may be chosen from: all that was known before a step."""

    task: str
    reference: Exemplar
    successes: tuple[Exemplar, ...]
    """Accepted codes, in the order of their places."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One choice: the `number`-th prompt of this task in `step`."""

    seed: int
    step: int
    number: int

    def random(self, task: str) -> Random:
        """Only its `random()` is used: the one method whose numbers Python keeps for a seed."""
        return Random(json.dumps([self.seed, task, self.step, self.number]))


Strategy = Callable[[View, int, Draw], tuple[Exemplar, ...]]


def view(task: str, reference: Exemplar, successes: Sequence[Scored]) -> View:
    """Of `Archive.successes`: each text once, and not the reference's own."""
    found = {reference.code.strip(): reference}
    for one in successes:
        assert one.score is not None, "only accepted codes are shown"
        found.setdefault(one.code.strip(), Exemplar(one.code, one.score, one.hash, one.place))
    return View(task, reference, tuple(found.values())[1:])


def buckets(view: View, n: int, draw: Draw) -> tuple[Exemplar, ...]:
    """N distinct buckets with P(i) = softmax((mean_i - mean) / tau), one code uniformly of each.

    tau is half a standard deviation of the buckets' means, 0.1 at least. The paper gives neither it nor the buckets' edges.
    """
    random = draw.random(view.task)
    levels = partition(view.successes)
    means = [fmean(one.score for one in level) for level in levels]
    chosen = top(random, levels, softmax_logits(means), n)
    return _completed(view, [level[_below(random, len(level))] for level in chosen], n)


def partition(codes: Sequence[Exemplar]) -> list[list[Exemplar]]:
    """At most ten quantile buckets, slowest first; equal scores share one, and neighbours' means are 2 % apart or more.

    A code goes by the middle rank of its score, so that equal ones stay together (the logarithm of the scores has the same
    quantiles). Then each bucket that is too close to the one below joins it.
    """
    ranked = sorted(codes, key=lambda one: (one.score, one.hash))
    scores = [one.score for one in ranked]
    wanted = min(MOST_BUCKETS, len(ranked))
    quantiles: dict[int, list[Exemplar]] = {}
    for one in ranked:
        twice_the_middle = bisect_left(scores, one.score) + bisect_right(scores, one.score)
        quantiles.setdefault(twice_the_middle * wanted // (2 * len(ranked)), []).append(one)
    merged: list[list[Exemplar]] = []
    for level in quantiles.values():
        if merged and fmean(one.score for one in level) < APART * fmean(one.score for one in merged[-1]):
            merged[-1] += level
        else:
            merged.append(level)
    return merged


def softmax_logits(means: Sequence[float]) -> list[float]:
    """(mean - mean of means) / tau; logits, so what is subtracted only keeps them small."""
    if not means:
        return []
    temperature = max(SPREAD * pstdev(means), LEAST_TEMPERATURE)
    return [(mean - fmean(means)) / temperature for mean in means]


def islands(number: int, period: int) -> Strategy:
    """`number` sub-populations; a prompt's island is its count modulo `number`, and its answers live there.

    Every `period` steps the weaker half, by best score, is emptied and restarts with the best code of a surviving island, chosen
    uniformly. What the run started with (step 0) lives on every island at first. Within an island clusters of equal score are chosen by
    softmax of their scores, as `buckets` chooses; a code of a cluster with P ~ exp(-length / longest).

    Islands are computed from the codes' places, so there is no state to save. Departures from FunSearch: distinct clusters for
    one prompt; a temperature that follows the spread of scores, not a schedule; a code lives where it was found first.
    """
    if number < 2 or period < 1:
        raise ValueError(f"islands({number}, {period}): wanted two islands or more and a period of at least one step")

    def choose(view: View, n: int, draw: Draw) -> tuple[Exemplar, ...]:
        random = draw.random(view.task)
        here = populations(view, draw.seed, draw.step, number, period)[(draw.step + draw.number) % number]
        clusters: dict[float, list[Exemplar]] = {}
        for one in sorted(here, key=lambda one: (one.score, one.hash)):
            clusters.setdefault(one.score, []).append(one)
        chosen = top(random, list(clusters.values()), softmax_logits(list(clusters)), n)
        return _completed(view, [_short_one(random, cluster) for cluster in chosen], n)

    return choose


def populations(view: View, seed: int, step: int, number: int, period: int) -> list[list[Exemplar]]:
    """Who lives where before `step`, by going through all steps from the first."""
    born: dict[int, list[Exemplar]] = defaultdict(list)
    for one in view.successes:
        assert one.place is not None, "only the reference has no place"
        born[one.place.step].append(one)
    alive = [[*born[0]] for _ in range(number)]
    for now in range(1, step):
        for one in born[now]:
            assert one.place is not None
            alive[(now + one.place.draw) % number].append(one)
        if now % period == 0:
            random = Random(json.dumps([seed, view.task, "reset", now]))
            ranked = sorted(range(number), key=lambda at: (max((one.score for one in alive[at]), default=0.0), at))
            weak, strong = ranked[: number // 2], ranked[number // 2 :]
            for at in weak:
                founder = alive[strong[_below(random, len(strong))]]
                alive[at] = [max(founder, key=lambda one: (one.score, one.hash))] if founder else []
    return alive


def proportional(view: View, n: int, draw: Draw) -> tuple[Exemplar, ...]:
    """Codes one after the other, each with P ~ its speed-up among those left."""
    random = draw.random(view.task)
    return _completed(view, top(random, view.successes, [log(one.score) for one in view.successes], n), n)


def uniform(view: View, n: int, draw: Draw) -> tuple[Exemplar, ...]:
    """Any codes. In the paper worse than showing none."""
    random = draw.random(view.task)
    return _completed(view, top(random, view.successes, [0.0] * len(view.successes), n), n)


def nothing(view: View, n: int, draw: Draw) -> tuple[Exemplar, ...]:  # noqa: ARG001  as every strategy
    """Best-of-N: the baseline to beat with as many evaluations."""
    return ()


def top(random: Random, items: Sequence[T], logits: Sequence[float], k: int) -> list[T]:
    """At most k distinct ones in the order of being chosen, each with P ~ exp(logit) among those left."""
    noise = _gumbels(random)
    keyed = [(logit + next(noise), at) for at, logit in enumerate(logits)]
    return [items[at] for _, at in sorted(keyed, reverse=True)[:k]]


def _gumbels(random: Random) -> Iterator[float]:
    while True:
        # In (0, 1]: 1 - u, whose logarithm is finite; and not of 1, which has none.
        drawn = -log(1 - random.random())
        if drawn > 0:
            yield -log(drawn)


def _below(random: Random, count: int) -> int:
    return int(random.random() * count)


def _short_one(random: Random, cluster: Sequence[Exemplar]) -> Exemplar:
    longest = max(len(one.code) for one in cluster)
    return top(random, cluster, [-len(one.code) / longest for one in cluster], 1)[0]


def _completed(view: View, chosen: Sequence[Exemplar], n: int) -> tuple[Exemplar, ...]:
    """With the reference where there is room for it; the fastest last, nearest to where the answer begins."""
    shown = [*chosen, view.reference] if len(chosen) < n else [*chosen]
    assert len({one.hash for one in shown}) == len(shown), "an exemplar is shown once"
    return tuple(sorted(shown, key=lambda one: (one.score, one.hash)))
