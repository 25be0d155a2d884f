"""Kernels whose times are written in a script, on a machine whose clock is a number: for tests of clocks, and of what relies on them.

    machine = Machine(slow=drift(0.1, period_s=30), noise=Noise(rng, cv=0.05))
    timing = clock.measure(side(machine, constant(2e-3)), side(machine, constant(1e-3)), 10, rng, now=machine.now)

Nothing waits: a ten-second measurement takes as long as its arithmetic.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, repeat


@dataclass(frozen=True, slots=True)
class Call:
    """Seconds of one call on a quiet machine."""

    work: float
    """CPU time inside the call, which takes as long."""
    wait: float = 0.0
    """Time inside the call that uses no CPU: sleeping, or waiting for others."""
    late: float = 0.0
    """CPU time after the call has returned."""
    beside: float = 0.0
    """CPU time inside the call on other cores."""


Script = Iterator[Call]


@dataclass(frozen=True, slots=True)
class Noise:
    """What a busy machine does to one call: log-normal spread, and now and then a call that is interrupted."""

    rng: random.Random
    cv: float = 0.0
    spikes: float = 0.0
    """Share of calls that take longer by a factor drawn from 1.5 to 5; waiting, so no CPU time."""

    def spread(self) -> float:
        return math.exp(self.rng.gauss(0, self.cv)) if self.cv else 1.0

    def spike(self) -> float:
        return self.rng.uniform(1.5, 5) if self.spikes and self.rng.random() < self.spikes else 1.0


class Machine:
    """Time that all sides share: it passes as they work."""

    def __init__(self, *, slow: Callable[[float], float] = lambda _: 1.0, noise: Noise | None = None) -> None:
        self.slow = slow
        """Time -> factor on every duration at that time."""
        self.noise = noise or Noise(random.Random(0))
        self._seconds = 0.0

    def now(self) -> float:
        return self._seconds

    def wait(self, seconds: float) -> None:
        self._seconds += seconds


def drift(size: float, *, period_s: float) -> Callable[[float], float]:
    """A machine that slows down by `size` and recovers, as clocks and heat do."""
    return lambda seconds: 1 + size * (1 - math.cos(2 * math.pi * seconds / period_s)) / 2


class ScriptedSide:
    """Implements clock.Timed."""

    def __init__(self, machine: Machine, script: Script, *, empty_s: float = 0.0) -> None:
        self.machine = machine
        self.asked: list[int] = []
        """The k of every call."""
        self._script = script
        self._empty_s = empty_s
        self._cpu = 0.0
        self._late: tuple[float, float] | None = None

    def call(self, k: int) -> float:
        self.asked.append(k)
        told = next(self._script)
        machine, noise = self.machine, self.machine.noise
        factor = machine.slow(machine.now())
        work = told.work * factor * noise.spread()
        seconds = self._empty_s * factor + (work + told.wait) * noise.spike()
        machine.wait(seconds)
        self._settle()
        self._cpu += work + told.beside * factor
        if told.late:
            self._late = (machine.now(), told.late * factor)
        return seconds

    def empty(self) -> float:
        seconds = self._empty_s * self.machine.slow(self.machine.now())
        self.machine.wait(seconds)
        return seconds

    def bind(self, seconds: float) -> None:
        """Being given inputs: CPU time between calls that no one is to blame for."""
        self.machine.wait(seconds)
        self._cpu += seconds

    def cpu_seconds(self) -> float:
        if self._late and self.machine.now() > self._late[0]:
            self._settle()
        return self._cpu

    def _settle(self) -> None:
        """Late work that time has passed for is done."""
        if self._late:
            self._cpu += self._late[1]
            self._late = None


# ---- Scripts --------------------------------------------------------------------------------------------------------


def constant(seconds: float) -> Script:
    return repeat(Call(seconds))


def batch_and_skip(seconds: float, every: int, *, skipped: float) -> Script:
    """One call does the work of `every`, the others take `skipped` seconds."""
    return (Call(seconds * every if k % every == 0 else skipped) for k in count())


def lucky(seconds: float, calls: int, *, factor: float) -> Script:
    """The first `calls` calls are faster by `factor`."""
    return (Call(seconds / factor if k < calls else seconds) for k in count())


def late(seconds: float, *, shown: float) -> Script:
    """Returns after `shown` seconds and goes on working for the rest."""
    return repeat(Call(shown, late=seconds - shown))


def elsewhere(seconds: float, *, shown: float) -> Script:
    """Works for `seconds` in all, on several cores at once, and is back after `shown`."""
    return repeat(Call(shown, beside=seconds - shown))


def sleeping(seconds: float, *, slept: float) -> Script:
    """A reference that was made to wait."""
    return repeat(Call(seconds, wait=slept))
