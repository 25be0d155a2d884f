"""Timed calls that are checked afterwards: the bridge between a Subject and `clock.measure`.

Every call gets values that were never there before, at addresses that are new, placed right before it: so nothing can be worked out
ahead, and both sides find their inputs equally warm. Of all timed calls a few
are remembered with their outputs, chosen at random and unknown to the worker, the last ones always; once time is taken their
outputs are judged like any other. So a kernel that is right while it is checked and wrong while it is timed is wrong.

Fresh values are made from a few draws of several distributions, each rolled by a random offset and scaled by a random factor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from postgrad.kernels.gpu import timed
from postgrad.kernels.gpu.side import GpuSide
from postgrad.kernels.gpu.timed import OnGpu
from postgrad.kernels.numeric import STORAGE, Array, is_float, numbers, stored
from postgrad.kernels.reference import Question, Specs
from postgrad.kernels.side import Side, Spec
from postgrad.kernels.subject import Asked, Subject, stale
from postgrad.kernels.verdict import Finding, Reason

POOL = (("own", 0), ("own", 1), ("own", 2), ("signs", 0), ("outliers", 0))
LEAST = 3
"""Calls that are judged however long that takes."""
KEPT = 8
LAST = 2
BIND_S = 1e-3
"""CPU-seconds that a worker may take for a new buffer set; what it uses above that counts as work between calls."""


@dataclass(slots=True)
class _Call:
    index: int
    arrays: list[Array]
    """Stored."""
    outputs: list[Array]
    """Stored."""


class Trial:
    """Prepares, times and remembers calls of both sides. `rival`: timed in the place of the reference, which still says what is right."""

    def __init__(self, subject: Subject, rival: Side | None = None) -> None:
        self.subject = subject
        self._pool = list(self._draws())
        self.repeats = 1
        """Calls in a question, each with values of its own."""
        self.sets: list[list[Array]] = []
        self._kept: list[_Call] = []
        self._last: list[_Call] = []
        self._count = 0
        sides = rival or subject.reference.side, subject.side
        self.reference, self.candidate = (
            OnGpu(self, side) if isinstance(side, GpuSide) else _Clocked(self, side) for side in sides
        )
        if isinstance(self.reference, OnGpu):
            self.repeats = self.reference.repeats()

    def _draws(self) -> Iterator[tuple[str, list[Array]]]:
        subject = self.subject
        for place, (name, index) in enumerate(POOL):
            question = subject.reference.question(subject.case, name, index)
            if place and question.degenerate:
                continue  # what gives no finite answer is not what anybody times
            yield name, question.arrays

    def prepare(self, k: int) -> str:
        """New values for the k-th round, the same for both sides; the name of their distribution."""
        name, drawn = self._pool[int(self.subject.rng.integers(len(self._pool)))]
        self.sets = [self._fresh(drawn) for _ in range(self.repeats)]
        return name

    def _fresh(self, drawn: list[Array]) -> list[Array]:
        specs = self.subject.specs
        return [
            array if place in specs.fixed else self._varied(array, one)
            for place, (array, one) in enumerate(zip(drawn, specs.inputs, strict=True))
        ]

    def _varied(self, array: Array, one: Spec) -> Array:
        if not is_float(one.dtype) or not array.size:
            return array
        rng = self.subject.rng
        flat, offset = array.reshape(-1), int(rng.integers(array.size))
        factor = float(rng.uniform(0.75, 1.25))
        if one.dtype == "bfloat16":
            return stored(np.roll(numbers(flat, one.dtype), offset) * factor, one.dtype).reshape(array.shape)
        made = np.empty_like(flat)
        scale = STORAGE[one.dtype](factor)
        np.multiply(flat[array.size - offset :], scale, out=made[:offset])
        np.multiply(flat[: array.size - offset], scale, out=made[offset:])
        return made.reshape(array.shape)

    def remember(self, k: int, arrays: list[Array], outputs: list[Array]) -> None:
        """Perhaps keep this call: each with the same chance, and the last ones for certain."""
        self._count += 1
        slot = int(self.subject.rng.integers(self._count))
        call = _Call(k, arrays, outputs)
        self._last = [*self._last, call][-LAST:]
        if len(self._kept) < KEPT:
            self._kept.append(call)
        elif slot < KEPT:
            self._kept[slot] = call

    def second(self) -> list[Finding]:
        """What a GPU's second clock says, once all rounds are run; nothing for a CPU, whose clocks agree or not in `clock`."""
        if isinstance(self.reference, OnGpu) and isinstance(self.candidate, OnGpu):
            return timed.findings(self.reference, self.candidate)
        return []

    def judge(self, seconds: float) -> list[Finding]:
        """What was wrong in the remembered calls: of those, the last one and as many others as the time allows, at least LEAST."""
        subject, until = self.subject, time.monotonic() + seconds
        specs: Specs = subject.specs
        found: list[Finding] = []
        calls = {call.index: call for call in (*self._last[-1:], *self._kept, *self._last)}
        for judged, call in enumerate(calls.values()):
            if judged >= LEAST and time.monotonic() > until:
                break
            envelopes = subject.reference.envelope(subject.case, call.arrays)
            question = Question(subject.case, "own", call.arrays, specs, envelopes)
            if question.degenerate:
                continue
            outputs = [numbers(raw, one.dtype) for raw, one in zip(call.outputs, specs.outputs, strict=True)]
            for place, (got, one) in enumerate(zip(outputs, question.envelopes, strict=True)):
                wrong = one.mismatch(got)
                if wrong is None:
                    continue
                asked = Asked(question, place, got, one, wrong, 0.0, [])
                late = Reason.C05_STALE_RESULT if stale(subject, asked) else Reason.S10_LATE_WRONG
                found.append(
                    Finding(
                        late,
                        f"right when it was checked, wrong when it was timed: {wrong}",
                        f"timed call {call.index}, output {place}",
                    )
                )
        return found[:3]


class _Clocked:
    """One side for the clock: its calls, and its CPU time without what placing values cost."""

    def __init__(self, trial: Trial, side: Side) -> None:
        self.trial, self.side = trial, side
        self._allowed = 0.0

    def call(self, k: int) -> float:
        before = self.side.cpu_seconds()
        placed = self.trial.subject.place_on(self.side, self.trial.sets[0])
        self._allowed += min(self.side.cpu_seconds() - before, BIND_S)
        elapsed = self.side.call(placed)
        outputs = self.side.stored_output(placed)  # of both sides, so that both leave the caches alike
        if self.side is self.trial.subject.side:
            self.trial.remember(k, self.trial.sets[0], outputs)
        return elapsed

    def empty(self) -> float:
        return self.side.empty()

    def cpu_seconds(self) -> float:
        return self.side.cpu_seconds() - self._allowed
