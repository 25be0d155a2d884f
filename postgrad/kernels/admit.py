"""Does a task deserve a number? Answers without work must fail its own check, or it is not admitted.

The answers are made from the oracle and the inputs, and judged exactly as a candidate's would be, on every question of the check:

    zero, one, constant   no look at the inputs (the constant is the oracle's mean on other values)
    identity              an input of the output's shape, given back
    mean                  each row's mean, or the mean of all where there is one row
    previous              the right answer to another question
    half                  right in the first half of the rows, zero in the second

One that passes everywhere shows that the task does not tell work from none: its output is constant, too small for its
tolerance, or does not depend on what it is given.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable

import numpy as np

from postgrad.kernels.numeric import Array
from postgrad.kernels.reference import Question, Reference
from postgrad.kernels.verdict import Finding, Reason

Mutant = Callable[[Question, Question, int], Array | None]
"""(question, another question of the same distribution, place of the output) -> an answer; None where there is none such."""


def _identity(question: Question, _other: Question, place: int) -> Array | None:
    wanted = question.envelopes[place].oracle.shape
    return next((one for one in question.inputs if one.shape == wanted), None)


def _mean(question: Question, _other: Question, place: int) -> Array | None:
    right = question.envelopes[place].oracle
    if right.ndim > 1:
        return np.broadcast_to(right.mean(-1, keepdims=True), right.shape)
    return np.full(right.shape, right.mean()) if right.size > 1 else None


def _half(question: Question, _other: Question, place: int) -> Array | None:
    right = question.envelopes[place].oracle
    if right.size < 2:
        return None
    made = right.reshape(-1).copy()
    made[made.size // 2 :] = 0
    return made.reshape(right.shape)


def _of(value: Callable[[Array], float]) -> Mutant:
    return lambda question, other, place: np.full_like(
        question.envelopes[place].oracle, value(other.envelopes[place].oracle)
    )


MUTANTS: dict[str, Mutant] = {
    "zero": _of(lambda _: 0.0),
    "one": _of(lambda _: 1.0),
    "constant": _of(lambda right: float(np.mean(right[np.isfinite(right)])) if np.isfinite(right).any() else 0.0),
    "identity": _identity,
    "mean": _mean,
    "previous": lambda _question, other, place: other.envelopes[place].oracle,
    "half": _half,
}


def admit(reference: Reference) -> list[Finding]:
    """A finding for each answer without work that the task's check would accept; empty where it is admitted.

    A question is only asked while some answer is still to be told from work by it: for most tasks the first one is enough.
    """
    tried = dict.fromkeys(MUTANTS, False)
    telling = 0
    for case, asks in itertools.groupby(reference.asks(), key=operator.itemgetter(0)):
        for _, name in asks:
            question = reference.question(case, name, 0)
            if question.degenerate:
                continue
            telling += 1
            other = reference.question(case, name, 1)
            passes = {mutant: _passes(MUTANTS[mutant], question, other) for mutant in tried}
            tried = {
                mutant: tried[mutant] or passed is True for mutant, passed in passes.items() if passed is not False
            }
            if not any(passes[mutant] for mutant in tried):
                break  # what is left cannot be made at these shapes
    if not telling:
        return [
            Finding(Reason.REFERENCE_FAILED, "the reference is not finite on any distribution of inputs", "admission")
        ]
    return [
        Finding(Reason.TASK_NOT_ADMITTED, f"the answer {name!r} passes all {telling} questions", "admission")
        for name, was in tried.items()
        if was
    ]


def _passes(mutant: Mutant, question: Question, other: Question) -> bool | None:
    """None where there is no such answer to this question."""
    tried = None
    for place, envelope in enumerate(question.envelopes):
        made = mutant(question, other, place)
        if made is None:
            continue
        tried = True
        with np.errstate(all="ignore"):
            answer = np.asarray(made).astype(envelope.oracle.dtype)
        if envelope.mismatch(answer) is not None:
            return False
    return tried
