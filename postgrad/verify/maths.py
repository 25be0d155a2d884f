"""Answers in mathematics: `boxed` reads only \\boxed{...}, `final_answer` also the usual closing forms.

    no answer found, an empty one, or one that cannot be read     NO_ANSWER   the model's to mend
    gold missing or unreadable, out of time or memory, a crash    UNCHECKED   ours
    otherwise                                                     CORRECT or WRONG

Numbers, words and their tuples and sets are compared in this process; formulas go to a worker that is killed at its
deadline (`pool`, `algebra`). What counts as the same is in `equal`.
"""

from __future__ import annotations

from collections.abc import Callable

from postgrad.records import Problem, Status, Trace, Verdict
from postgrad.verify import equal, extract
from postgrad.verify.pool import Failed, Pool


class _TakesAlgebra(Exception):
    pass


class Maths:
    """A Verifier that finds the answer by `find` and compares formulas in `pool`."""

    def __init__(self, find: Callable[[str], str | None], pool: Pool) -> None:
        self.find = find
        self.pool = pool

    def __call__(self, problem: Problem, trace: Trace) -> Verdict:
        answer = self.find(trace.text)
        if problem.gold is None:
            return Verdict(Status.UNCHECKED, None, "gold missing")
        if answer is None:
            return Verdict(Status.NO_ANSWER, None, "no answer found")
        return self.compare(problem.gold, answer)

    def compare(self, gold: str, answer: str) -> Verdict:
        """The verdict on an answer that stands alone."""
        compared = f"{answer[:200]!r} against gold {gold[:200]!r}"
        try:
            gold_tree = equal.read(gold)
        except equal.Prose:
            return Verdict(Status.UNCHECKED, None, f"gold is prose: {gold[:200]!r}")
        except ValueError as error:
            return Verdict(Status.UNCHECKED, None, f"gold {error}")
        try:
            answer_tree = equal.read(answer)
            alike = equal.same(gold_tree, answer_tree, _without_algebra)
        except equal.Prose:
            return Verdict(Status.NO_ANSWER, None, f"answer is prose: {answer[:200]!r}")
        except ValueError as error:
            return Verdict(Status.NO_ANSWER, None, f"answer {error}")
        except _TakesAlgebra:
            return self._by_algebra(gold, answer, compared)
        return _verdict(alike, compared)

    def _by_algebra(self, gold: str, answer: str, compared: str) -> Verdict:
        try:
            reply = self.pool.ask({"gold": gold, "answer": answer})
        except Failed as failed:
            return Verdict(Status.UNCHECKED, None, f"{failed}: {compared}")
        if "same" in reply:
            return _verdict(reply["same"], compared)
        if reply["failed"] == "answer":
            return Verdict(Status.NO_ANSWER, None, f"answer unreadable: {compared}")
        return Verdict(Status.UNCHECKED, None, f"{reply['failed']}: {compared}")


def _without_algebra(gold: str, answer: str) -> bool:
    known = equal.quick(gold, answer)
    if known is None:
        raise _TakesAlgebra
    return known


def _verdict(alike: bool, compared: str) -> Verdict:
    return Verdict(Status.CORRECT if alike else Status.WRONG, float(alike), compared)


_shared = Pool()
boxed = Maths(extract.boxed, _shared)
final_answer = Maths(extract.final, _shared)
