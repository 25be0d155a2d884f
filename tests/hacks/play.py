"""Plays rows of the catalogue through the whole pipeline: an exploit with the static rules and without them, and its honest twin.

Rows that share a task share its Evaluator, so a reference is started and admitted once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from postgrad.kernels.candidate import Candidate
from postgrad.kernels.clock import Rules
from postgrad.kernels.evaluate import Evaluator, Settings, static, unread
from postgrad.kernels.task import Case, Task, from_text, function, native
from postgrad.kernels.verdict import ACCEPTED, UNCHECKED, Finding, KernelVerdict, Reason, conclude
from tests.hacks.row import Row
from tests.hacks.tasks import Text

Part = Literal["exploit", "twin"]
NOISE = {
    Reason.T20_UNSTABLE,
    Reason.T20_NOT_REPRODUCED,
    Reason.BUDGET_TOO_SMALL,
    Reason.T19_TOO_SMALL,
    Reason.T09_BATCH_AND_SKIP,
}
"""What a busy machine does to an honest kernel where it means UNCHECKED: no number, and nothing said against it."""
SETTINGS = Settings(scan=unread, budget_s=4.0, seeds=1, clock="cpu", rules=Rules(gate=0.05, widest=0.3, overhead=0.2))
"""By CPU time, which holds on a machine that does other things too; the wall clock must agree. The gates are wider than for
a number that counts: here it is asked whether a kernel is let through, not how fast it is."""
LENGTH = 1 << 20


def as_task(text: Text) -> Task:
    if text.kind == "cpp":
        small = [Case(((length,),), (length,)) for length in (1, 3, 65)]
        timed = Case(((LENGTH,),), (LENGTH,))
        return native(text.name, text.source, timed=timed, cases=small, oracle=lambda arrays: 2 * arrays[0] + 1)
    if text.kind == "function":
        timed, *others = text.shapes
        cases = tuple(Case((shape,)) for shape in others)
        return function(text.name, text.source, [timed], entry=text.name, cases=cases)
    modes: tuple[Literal["train", "eval"], ...] = ("eval", "train") if text.training else ("eval",)
    return from_text(text.name, text.source, precision=text.precision, modes=modes, backward=text.gradient)


@dataclass(frozen=True, slots=True)
class Played:
    """One text's verdicts."""

    row: Row
    part: Part
    static: tuple[Finding, ...]
    """What the text alone gives away."""
    behaviour: KernelVerdict | None
    """Without the static rules; None where it cannot be run here."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        return (*self.static, *(self.behaviour.findings if self.behaviour is not None else ()))

    @property
    def caught(self) -> bool:
        """Not accepted, and for a reason of its row."""
        right = [finding for finding in self.findings if finding.reason in self.row.reasons]
        return bool(right) and conclude(self.findings) is not ACCEPTED

    @property
    def harmless(self) -> bool:
        """Without the rules it is accepted, and gains nothing: the hack had nothing to work on."""
        verdict = self.behaviour
        return verdict is not None and verdict.status is ACCEPTED

    @property
    def accused(self) -> list[Finding]:
        """What is said against it that is no noise: for a twin, a false positive."""
        return [one for one in self.findings if one.status is not UNCHECKED or one.reason not in NOISE]

    @property
    def accepted(self) -> bool:
        return not self.static and self.behaviour is not None and self.behaviour.status is ACCEPTED


def play(
    rows: Sequence[Row], parts: Sequence[Part] = ("exploit", "twin"), settings: Settings = SETTINGS
) -> Iterator[Played]:
    """Every part of every row that can be run without a GPU; the others with their static findings alone. By task."""
    asked = [(row, part) for row in rows for part in parts]
    for text in dict.fromkeys(_text(row, part) for row, part in asked):
        mine = [(row, part) for row, part in asked if _text(row, part) == text]
        task = as_task(text)
        with Evaluator(task, settings) as evaluate:
            for row, part in mine:
                candidate = Candidate(row.exploit if part == "exploit" else row.twin, row.backend, row.id.lower())
                verdict = evaluate(candidate) if row.needs == "cpu" else None
                if (
                    part == "twin"
                    and verdict is not None
                    and {f.reason for f in verdict.findings} & NOISE
                    and verdict.status is UNCHECKED
                ):
                    verdict = evaluate(candidate)
                yield Played(row, part, tuple(static(candidate, task)), verdict)


def _text(row: Row, part: Part) -> Text:
    return row.task if part == "exploit" else row.honest_task
