"""Numeric answers within a tolerance, as in questions on tables and measurements.

    |answer - gold| <= max(absolute, relative * |gold|)

An answer may be a percentage (12% for 0.12 and for 12), carry a unit, thousands separators or a scale in words
("3.2 million"). Two percentages are compared as they are, so 12% never passes for 0.12%.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from postgrad.records import Problem, Status, Trace, Verdict
from postgrad.verify import extract, numeral
from postgrad.verify.spelling import normal, split_unit

_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALED = re.compile(rf"(.*?)(?:\s|\\text\s*\{{)+({'|'.join(_SCALES)})s?\b(.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Within:
    """A Verifier of numbers: `Within(relative=Fraction(1, 100))` accepts one per cent to either side."""

    relative: Fraction = Fraction(0)
    absolute: Fraction = Fraction(0)

    def __call__(self, problem: Problem, trace: Trace) -> Verdict:
        if problem.gold is None:
            return Verdict(Status.UNCHECKED, None, "gold missing")
        gold = _read(problem.gold)
        if gold is None:
            return Verdict(Status.UNCHECKED, None, f"gold not a number: {problem.gold[:200]!r}")
        written = extract.final(trace.text)
        answer = None if written is None else _read(written)
        if written is None or answer is None:
            return Verdict(Status.NO_ANSWER, None, f"no number found: {(written or '')[:200]!r}")
        near = any(self._near(g, a) for g, a in _comparable(gold, answer))
        status = Status.CORRECT if near else Status.WRONG
        return Verdict(status, float(near), f"{written[:200]!r} against gold {problem.gold[:200]!r}")

    def _near(self, gold: Fraction, answer: Fraction) -> bool:
        return abs(answer - gold) <= max(self.absolute, self.relative * abs(gold))


def _read(written: str) -> tuple[Fraction, bool] | None:
    """The value and whether it is a percentage (12% is 12, True)."""
    text = normal(written)
    scaled = _SCALED.fullmatch(text)
    base, _ = split_unit(scaled[1].strip() if scaled else text)
    number = numeral.number(base)
    if number is None:
        return None
    return number.value * (_SCALES[scaled[2].lower()] if scaled else 1), number.percent


def _comparable(gold: tuple[Fraction, bool], answer: tuple[Fraction, bool]) -> list[tuple[Fraction, Fraction]]:
    (g, gold_percent), (a, answer_percent) = gold, answer
    if gold_percent == answer_percent:
        return [(g, a)]
    return [(g, a), (g / 100, a) if gold_percent else (g, a / 100)]
