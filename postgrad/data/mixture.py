"""Which item comes at which position: computed from (seed, position), so a resumed run needs one integer.

    mixture = Mixture((7900, 500), weights=(0.9, 0.1), seed=1)   # 90 % of a new set, 10 % replay of an old one
    mixture.item(123_456)                                        # Item(source=0, index=..., epoch=14)
    Mixture((7900,))                                             # one source: a shuffle, another one each epoch

Turns go to the source with the largest deficit, the one furthest below its share so far. With weights as whole parts
of a sum W (0.9 and 0.1: 9 and 1 of 10) that schedule repeats after W turns, exactly in proportion, and never is a
source a whole item ahead of its share. Inside a source every item comes once in an epoch, in an order drawn from
(seed, source, epoch) by Philox, a counter-based generator (Salmon et al. 2011) whose raw stream numpy keeps fixed
between versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import gcd, isfinite, lcm

import numpy as np
import numpy.typing as npt

MAX_PERIOD = 1_000_000


@dataclass(frozen=True, slots=True)
class Item:
    source: int
    index: int
    epoch: int
    """Of this source: 0 for its first time through."""


class Mixture:
    """An endless order over several sources."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] = (1,), seed: int = 0) -> None:
        """`weights`: shares of the turns, in any unit."""
        if not sizes or min(sizes) < 1:
            raise ValueError(f"every source needs at least one item: got sizes {tuple(sizes)}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed={seed}: wanted 0 <= seed < 2**64")
        self.sizes = tuple(sizes)
        self.seed = seed
        self.parts = _parts(tuple(weights), len(sizes))
        self._turns, self._before = _schedule(self.parts)

    def item(self, position: int) -> Item:
        if position < 0:
            raise ValueError(f"position={position}: wanted 0 or more")
        cycle, turn = divmod(position, len(self._turns))
        source = self._turns[turn]
        epoch, place = divmod(cycle * self.parts[source] + self._before[turn], self.sizes[source])
        return Item(source, int(order(self.sizes[source], self.seed, source, epoch)[place]), epoch)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        return (self.item(position) for position in range(start, stop))


@lru_cache(maxsize=16)
def order(size: int, seed: int, source: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of range(size): the ranks of `size` raw 64-bit numbers."""
    raw = np.random.Philox(key=np.array([seed, (source << 40) + epoch], dtype=np.uint64)).random_raw(size)
    indices: npt.NDArray[np.int64] = np.argsort(raw, kind="stable")
    indices.setflags(write=False)
    return indices


def _parts(weights: tuple[float, ...], sources: int) -> tuple[int, ...]:
    """The weights as the smallest whole numbers in the same proportion; decimals are taken as written (0.1 is 1/10)."""
    if len(weights) != sources:
        raise ValueError(f"{len(weights)} weights for {sources} sources")
    if not all(isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ValueError(f"weights must be finite, none below 0 and one above: got {weights}")
    exact = [Fraction(str(weight)) for weight in weights]
    denominator = lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * denominator) for weight in exact]
    whole = [part // gcd(*whole) for part in whole]
    if sum(whole) > MAX_PERIOD:
        raise ValueError(f"weights {weights} are in proportion only after {sum(whole)} turns: round them, say to 0.001")
    return tuple(whole)


def _schedule(parts: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """For each turn of a period: whose it is, and how many that source had before."""
    total = sum(parts)
    had = [0] * len(parts)
    turns, before = [], []
    for turn in range(1, total + 1):
        # Deficits in units of 1/total, so whole numbers; the first source wins a tie. A weight of 0 never has one.
        source = max(range(len(parts)), key=lambda at: parts[at] * turn - had[at] * total)
        turns.append(source)
        before.append(had[source])
        had[source] += 1
    return turns, before
