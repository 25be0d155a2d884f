"""A side on a GPU for the clock, in the place of trial.py's for a CPU.

A round trip takes tens of microseconds, as long as many a kernel. So one question is `repeats` calls on as many buffer sets, each with
values of its own, and the time of a call is the question's divided by their number; the same number for both sides, found from the
reference so that a question is SHARE times as long as an empty one. What waiting after each call costs stays in it, and is in the overhead that is reported.

The L2 cache is emptied before each question, after the values were placed: what is measured is cold, always.

The second clock is CUDA events on the stream that a caller waits for. Beyond `clock`'s rules it tells two things, by medians over rounds:

    a question takes longer than its events, and the reference's does not      work on a stream that nobody waits for      T01
    committing to the outputs takes longer than the reference's                work that was put off until then            T02
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from postgrad.kernels.gpu.runner import MOST
from postgrad.kernels.gpu.side import GpuSide, bytes_of
from postgrad.kernels.verdict import Finding, Reason

if TYPE_CHECKING:
    from postgrad.kernels.trial import Trial

SHARE = 25.0
MOST_BYTES = 2 << 30
"""Of the buffer sets of one question, on the device."""
TRIED = 5
BESIDE = 1.5
"""Most of a question's time over its events' beyond the reference's."""
LATE = 0.1
"""Most of a question's time that its commitment may take beyond the reference's."""
SMALLEST_S = 2e-5
"""Of either, for what a call may do unnoticed."""


class OnGpu:
    """One of the two sides of a trial."""

    def __init__(self, trial: Trial, side: GpuSide) -> None:
        self.trial, self.side = trial, side
        self._events = 0.0
        self.beside: list[float] = []
        """Of each question: its seconds beyond those between its events."""
        self.spans: list[float] = []
        self.commits: list[float] = []
        self.empties: list[float] = []

    def call(self, k: int) -> float:
        trial, side = self.trial, self.side
        side.keep(2 * trial.repeats)
        placed = [trial.subject.place_on(side, arrays) for arrays in trial.sets]
        side.ask("cool")
        elapsed = side.calls(placed)
        self._events += side.events_s / len(placed)
        self.beside.append(elapsed - side.events_s)
        self.spans.append(elapsed)
        self.commits.append(side.committed_s)
        if side is trial.subject.side:
            chosen = int(trial.subject.rng.integers(len(placed)))
            trial.remember(k, trial.sets[chosen], side.stored_output(placed[chosen]))
        return elapsed / len(placed)

    def empty(self) -> float:
        took = self.side.empty(self.trial.repeats)
        self.empties.append(took)
        return took / self.trial.repeats

    def cpu_seconds(self) -> float:
        """Between events, of one call for each question."""
        return self._events

    def repeats(self) -> int:
        """How many calls make a question long beside what it costs to ask, on this side."""
        trial = self.trial
        specs = trial.subject.specs
        room = MOST_BYTES // max(1, bytes_of(specs.inputs, specs.outputs))
        spans = []
        for attempt in range(TRIED):
            trial.prepare(attempt)
            self.side.calls([trial.subject.place_on(self.side, trial.sets[0])])
            spans.append(self.side.events_s)
        asked = min(self.side.empty() for _ in range(TRIED))
        return max(1, min(MOST, room, math.ceil(SHARE * asked / max(min(spans), 1e-7))))


def findings(reference: OnGpu, candidate: OnGpu) -> list[Finding]:
    """What the second clock and the commitments say of the candidate, once all rounds are run."""
    if not candidate.spans or not reference.spans:
        return []
    found = []
    median, empty = statistics.median, statistics.median(candidate.empties)
    span = median(candidate.spans)
    beside, usual = median(candidate.beside) - empty, median(reference.beside) - empty
    if beside > (BESIDE - 1) * span + max(usual, 0.0) + SMALLEST_S:
        told = f"a question takes {span:.3g} s, {beside:.3g} s of it outside its events; the reference's {usual:.3g} s"
        found.append(Finding(Reason.T01_SIDE_STREAM, told, "timing"))
    late, usual = median(candidate.commits), median(reference.commits)
    if late > usual + LATE * span + 0.2 * usual + SMALLEST_S:
        told = f"committing to the outputs takes {late:.3g} s beside a question of {span:.3g} s; the reference's {usual:.3g} s"
        found.append(Finding(Reason.T02_LATE_WORK, told, "timing"))
    return found
