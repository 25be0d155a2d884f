"""The recipe's choice of what to train on: hard problems, each with one correct trace.

After Fast-Math-R1 (arXiv 2507.08267): merge the sets, remove duplicates by problem, keep problems that are hard (long
traces, a low pass rate), and of each problem's CORRECT traces the shortest.

    problem in two sets      -> one, with the traces of both, where the golds agree; the first set's, where they do not
    pass rate outside bounds -> out, where the rate is known
    no correct trace         -> out: `unchecked` if any of its traces might still be correct, `wrong` otherwise;
                                with `keep_unchecked` those that might be stand in for the correct ones
    the chosen trace short   -> out

A trace whose correctness is None was never checked: it is not chosen unless asked for, and then counted apart.
`judged` fills those in with a verifier's word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from postgrad.data.text import normal, prompt_text
from postgrad.records import Example, Problem

Choice = Literal["shortest", "longest", "random"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A problem and what is known about solving it.

    Example: Candidate(problem, traces=("<think>...", "<think>..."), correct=(True, None), pass_rate=0.5)
    """

    problem: Problem
    traces: tuple[str, ...]
    correct: tuple[bool | None, ...]
    """One for each trace; None: unchecked."""
    pass_rate: float | None = None
    """Share of a model's attempts that were correct, 0 to 1; None: not known."""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if len(self.traces) != len(self.correct):
            raise ValueError(
                f"{self.problem.id!r}: {len(self.traces)} traces, {len(self.correct)} marks of correctness"
            )


@dataclass(frozen=True, slots=True)
class Counts:
    """Candidates by what became of them; `candidates` is the sum of all the others."""

    candidates: int = 0
    merged: int = 0
    """The problem had been seen: its traces joined the first one's."""
    conflicting: int = 0
    """The problem had been seen with another gold: left out, traces too."""
    too_easy: int = 0
    too_hard: int = 0
    no_trace: int = 0
    wrong: int = 0
    unchecked: int = 0
    too_short: int = 0
    kept: int = 0
    kept_unchecked: int = 0
    """Kept without anything having said that the trace is correct."""


@dataclass(frozen=True, slots=True)
class Selected:
    examples: tuple[Example, ...]
    counts: Counts


def judged(candidates: Iterable[Candidate], judge: Callable[[Problem, str], bool | None]) -> Iterator[Candidate]:
    """The same candidates with unchecked traces judged; marks that the data brought stay."""
    for candidate in candidates:
        marks = (
            judge(candidate.problem, trace) if mark is None else mark
            for trace, mark in zip(candidate.traces, candidate.correct, strict=True)
        )
        yield replace(candidate, correct=tuple(marks))


def select(
    candidates: Iterable[Candidate],
    count: Callable[[str], int],
    *,
    choose: Choice = "shortest",
    min_trace_tokens: int = 0,
    min_pass_rate: float = 0.0,
    max_pass_rate: float = 1.0,
    keep_unchecked: bool = False,
    seed: int = 0,
) -> Selected:
    """`count` gives the tokens of a trace.

    Kept are traces longer than `min_trace_tokens` of problems with a pass rate within the bounds, both included.
    `random` depends on the seed and the problem's id alone, not on other candidates.
    """
    total, unique, tally = _unique(candidates)
    examples = []
    for candidate in unique:
        kept, eligible = "kept", _marked(candidate, True)
        if keep_unchecked and not eligible:
            kept, eligible = "kept_unchecked", _marked(candidate, None)
        if candidate.pass_rate is not None and candidate.pass_rate > max_pass_rate:
            reason = "too_easy"
        elif candidate.pass_rate is not None and candidate.pass_rate < min_pass_rate:
            reason = "too_hard"
        elif not candidate.traces:
            reason = "no_trace"
        elif not eligible:
            reason = "unchecked" if None in candidate.correct else "wrong"
        else:
            trace = _chosen(eligible, choose, count, f"{seed}:{candidate.problem.id}")
            # Counting costs a tokenizer's pass over the trace: not where any length will do.
            reason = "too_short" if min_trace_tokens and count(trace) <= min_trace_tokens else kept
            if reason == kept:
                problem = candidate.problem
                examples.append(Example(problem.prompt, trace, candidate.weight, problem.id, problem.labels))
        tally[reason] = tally.get(reason, 0) + 1
    return Selected(tuple(examples), Counts(candidates=total, **tally))


def _unique(candidates: Iterable[Candidate]) -> tuple[int, list[Candidate], dict[str, int]]:
    found: dict[str, Candidate] = {}
    tally = {"merged": 0, "conflicting": 0}
    total = 0
    for candidate in candidates:
        total += 1
        key = normal(prompt_text(candidate.problem.prompt))
        first = found.setdefault(key, candidate)
        if first is candidate:
            continue
        if _gold(first) == _gold(candidate):
            tally["merged"] += 1
            found[key] = replace(
                first,
                traces=first.traces + candidate.traces,
                correct=first.correct + candidate.correct,
                pass_rate=candidate.pass_rate if first.pass_rate is None else first.pass_rate,
            )
        else:
            tally["conflicting"] += 1
    return total, list(found.values()), tally


def _gold(candidate: Candidate) -> str | None:
    return None if candidate.problem.gold is None else normal(candidate.problem.gold)


def _marked(candidate: Candidate, wanted: bool | None) -> list[str]:
    return [trace for trace, mark in zip(candidate.traces, candidate.correct, strict=True) if mark is wanted]


def _chosen(traces: Sequence[str], choose: Choice, count: Callable[[str], int], key: str) -> str:
    if choose == "random":
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return traces[int.from_bytes(digest) % len(traces)]
    if len(traces) == 1:
        return traces[0]
    return min(traces, key=count) if choose == "shortest" else max(traces, key=count)
