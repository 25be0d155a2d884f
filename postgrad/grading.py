"""The one place where a verifier is asked: traces in, graded traces out, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from postgrad.protocols import Prepared, Verifier
from postgrad.records import Graded, Problem, Status, Trace, Verdict

THREADS = 8
"""Verifiers with work to do wait for processes of their own (verify/pool.py), so threads that wait are enough."""


def judged(problem: Problem, trace: Trace, verifier: Verifier) -> Graded:
    """What sampling itself could not finish is not the model's fault, whatever it says."""
    if trace.finish == "error":
        return Graded(problem, trace, Verdict(Status.UNCHECKED, None, "sampling failed"))
    return Graded(problem, trace, verifier(problem, trace))


def grade(problems: Sequence[Problem], traces: Sequence[Sequence[Trace]], verifier: Verifier) -> list[list[Graded]]:
    """[P][N] traces to [P][N] graded ones, in their order."""
    if isinstance(verifier, Prepared):
        verifier.prepare(problems, traces)
    asked = [problem for problem, row in zip(problems, traces, strict=True) for _ in row]
    flat = [trace for row in traces for trace in row]
    with ThreadPoolExecutor(THREADS) as pool:
        done = pool.map(lambda problem, trace: judged(problem, trace, verifier), asked, flat)
        return [[next(done) for _ in row] for row in traces]
