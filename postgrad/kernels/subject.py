"""One candidate under test beside its reference, and the questions that the check and its probes put to both.

subject.place(arrays) -> k           a buffer set with these values in the candidate's worker
ask(subject, question) -> [Asked]    its answer to one question, output by output: how it was wrong, what it wrote where
fresh(subject) -> Question           the task's own values, drawn for this once
misbehaviour(error, where)           what it did to end its own evaluation
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from postgrad.kernels.candidate import Candidate
from postgrad.kernels.numeric import Array, is_float, numbers
from postgrad.kernels.reference import Question, Reference, ReferenceFailed, Specs
from postgrad.kernels.side import Misbehaved, Side, Spec
from postgrad.kernels.task import Case
from postgrad.kernels.tolerance import Envelope, Mismatch
from postgrad.kernels.verdict import Finding, Reason

KINDS = {
    "entry": Reason.NO_ENTRY,
    "shape": Reason.S11_OTHER_SIZES,
    "type": Reason.S14_WRONG_ATTRIBUTES,
    "gradient": Reason.S21_WRONG_GRADIENT,
    "raised": Reason.RAISED,
    "inputs": Reason.RAISED,
    "memory": Reason.OUT_OF_MEMORY,
    "exit": Reason.F10_FORGED_RESULT,
    "late": Reason.T21_ASYNC_RETURN,
    "protocol": Reason.F10_FORGED_RESULT,
    "ok": Reason.F10_FORGED_RESULT,
    "failed": Reason.F10_FORGED_RESULT,
    "crashed": Reason.CRASHED,
    "timed_out": Reason.TIMED_OUT,
    "out_of_memory": Reason.OUT_OF_MEMORY,
    "flooded": Reason.FLOODED,
}
"""How an implementation ended its own evaluation. A process that ends before it was told to answered in the grader's place."""


def misbehaviour(error: Misbehaved, where: str) -> Finding:
    """What a candidate did to end its evaluation. Raises ReferenceFailed where it was the reference."""
    if error.who == "reference":
        raise ReferenceFailed(f"{where}: {error}") from error
    at = where if error.line is None else f"{where}, line {error.line} of the candidate"
    return Finding(KINDS.get(error.kind, Reason.RAISED), str(error), at)


@dataclass(slots=True)
class Subject:
    """One candidate under test, with what was seen of it so far."""

    reference: Reference
    side: Side
    candidate: Candidate
    rng: np.random.Generator
    answered: list[tuple[list[Array], list[Envelope]]] = field(default_factory=list)
    """Outputs of calls at the timed case, and what they should have been: to recognise an old answer."""
    first: list[Array] | None = None
    """Of the first call of all, where it was right."""
    before: dict[str, Any] = field(default_factory=dict)
    census: tuple[int, int] = (0, 0)

    @property
    def native(self) -> bool:
        return self.side.code.backend == "cpp"

    @property
    def specs(self) -> Specs:
        return self.reference.specs(self.case)

    @property
    def case(self) -> Case:
        return self.reference.cases[-1]

    def seed(self) -> int:
        return int(self.rng.integers(1 << 31))

    def place(self, arrays: Sequence[Array], case: Case | None = None, **told: Any) -> int:
        return self.place_on(self.side, arrays, case, **told)

    def place_on(self, side: Side, arrays: Sequence[Array], case: Case | None = None, **told: Any) -> int:
        specs = self.reference.specs(case or self.case)
        return side.place(arrays, specs.inputs, specs.outputs, n=specs.n, others=specs.others, **told)


def set_parameters(subject: Subject, raw: list[Array], how: str) -> None:
    """Give both sides these parameters. how: load (load_state_dict, strict) or copy (in place, as an optimiser does)."""
    wanted = subject.reference.state
    subject.reference.side.send("set_state", raw, wanted, how=how)
    if subject.native:
        subject.side.extra = [as_float(one, spec) for one, spec in zip(raw, wanted, strict=True)]
    else:
        subject.side.send("set_state", raw, wanted, how=how)


def as_float(raw: Array, one: Spec) -> Array:
    return np.asarray(numbers(raw, one.dtype), np.float32)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, its answer and how it was wrong."""

    question: Question
    place: int
    """Of the output."""
    got: Array
    envelope: Envelope
    wrong: Mismatch | None
    poisoned: float
    """Share of the output that was never written."""
    changed: list[int]
    """Inputs that were written to."""

    @property
    def case(self) -> Case:
        return self.question.case

    @property
    def distribution(self) -> str:
        return self.question.distribution

    @property
    def inputs(self) -> list[Array]:
        return self.question.inputs


def ask(subject: Subject, question: Question) -> list[Asked]:
    """The candidate's answers; nothing where the task has no finite answer."""
    if question.degenerate:
        return []
    k = subject.place(question.arrays, question.case)
    subject.side.call(k)
    outputs, changed = subject.side.output(k), subject.side.changed_inputs(k)
    unwritten = subject.side.poisoned(k)
    if question.case == subject.case:
        subject.answered.append((outputs, question.envelopes))
    return [
        Asked(question, place, got, bounds, bounds.mismatch(got), float(np.mean(lost)), changed)
        for place, (got, bounds, lost) in enumerate(zip(outputs, question.envelopes, unwritten, strict=True))
    ]


def fresh(subject: Subject) -> Question:
    """A question that is asked once: the task's own values at the timed case, under what holds now."""
    reference, case = subject.reference, subject.case
    arrays = reference.drawn(case, "own", subject.seed())
    return Question(case, "own", arrays, subject.specs, reference.envelope(case, arrays))


def described(subject: Subject, side: Side, question: Question) -> list[dict[str, Any]]:
    """What a side says of its outputs for a question."""
    k = subject.place_on(side, question.arrays, question.case)
    side.call(k)
    found: list[dict[str, Any]] = side.ask("describe", k=k)["out"]
    return found


def stale(subject: Subject, asked: Asked) -> bool:
    """The answer is that of another call, to which another one was right."""
    return any(
        equal(asked.got, outputs[asked.place]) and asked.envelope.mismatch(envelopes[asked.place].oracle) is not None
        for outputs, envelopes in subject.answered
        if outputs[asked.place] is not asked.got
    )


def equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=is_float(str(a.dtype))))
