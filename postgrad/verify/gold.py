"""Run a verifier over the gold answers before anything is trained against it.

A problem is kept where its own gold is CORRECT and every altered gold is not, and at least one is WRONG: a verifier that
cannot tell a gold from its neighbour rewards noise. The rest is rejected by name, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from postgrad.protocols import Verifier
from postgrad.records import Problem, Status, Trace
from postgrad.verify import equal


@dataclass(frozen=True, slots=True)
class Rejected:
    problem: Problem
    reason: str


@dataclass(frozen=True, slots=True)
class Checked:
    kept: tuple[Problem, ...]
    rejected: tuple[Rejected, ...]


def in_box(answer: str) -> str:
    """A completion that gives this answer in the form that `maths.boxed` and `choice` read."""
    return rf"\boxed{{{answer}}}"


def keep_checkable(
    problems: Iterable[Problem], verifier: Verifier, complete: Callable[[str], str] = in_box
) -> Checked:
    """The problems this verifier can check, and the others with the reason. `complete` writes an answer as a completion."""
    kept: list[Problem] = []
    rejected: list[Rejected] = []
    for problem in problems:
        reason = _objection(problem, verifier, complete)
        if reason is None:
            kept.append(problem)
        else:
            rejected.append(Rejected(problem, reason))
    return Checked(tuple(kept), tuple(rejected))


def _objection(problem: Problem, verifier: Verifier, complete: Callable[[str], str]) -> str | None:
    if problem.gold is None:
        return "gold missing"

    def check(answer: str) -> tuple[Status, str]:
        verdict = verifier(problem, Trace(problem.id, complete(answer), (), (), "stop"))
        return verdict.status, verdict.reason

    status, why = check(problem.gold)
    if status is not Status.CORRECT:
        return f"its own gold is {status}: {why}"
    told_apart = False
    for altered in perturbed(problem.gold):
        status, why = check(altered)
        if status is Status.CORRECT:
            return f"accepts {altered!r} for gold {problem.gold!r}"
        told_apart |= status is Status.WRONG
    return None if told_apart else f"no altered gold is told apart: {why}"


def perturbed(gold: str) -> Iterator[str]:
    """Answers that look like the gold and differ from it: another letter, a digit changed, one added, the sign turned, an
    element dropped, two swapped. Where the gold cannot be read, only the changed digit."""
    bare = gold.strip().strip("$").strip()
    if re.fullmatch(r"\(?[A-J]\)?", bare):
        yield re.sub(r"[A-J]", lambda letter: "ABCDEFGHIJ"[(ord(letter[0]) - ord("A") + 1) % 10], bare)
        return
    digit = re.search(r"[1-9]", bare)
    if digit:
        yield bare[: digit.start()] + str(int(digit[0]) % 9 + 1) + bare[digit.end() :]
    try:
        tree = equal.read(gold)
    except (equal.Prose, ValueError):
        return
    yield from _altered(tree)


def _altered(tree: equal.Tree) -> Iterator[str]:
    if isinstance(tree, equal.Named):
        for value in _altered(tree.value):
            yield f"{tree.name} = {value}"
    elif isinstance(tree, equal.Leaf):
        base, _ = equal.split_unit(tree.text)
        number = equal.number(base)
        if number is not None:
            yield str(number.value + 1)
            if number.value:
                yield str(-number.value)
        elif equal.is_words(base):
            yield f"not {base}"
        elif not equal.is_relation(base):
            yield f"{base} + 1"
    else:
        opening, closing = (tree.brackets[0], tree.brackets[1]) if isinstance(tree, equal.Row) else (r"\{", r"\}")
        texts = [item.text for item in tree.items]
        if len(texts) > 1:
            yield f"{opening}{', '.join(texts[:-1])}{closing}"
        if isinstance(tree, equal.Row) and texts[0] != texts[-1]:
            yield f"{opening}{', '.join([texts[-1], *texts[1:-1], texts[0]])}{closing}"
