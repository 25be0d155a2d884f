"""Run a verifier over the gold answers before anything is trained against it.

A problem is kept where its own gold is CORRECT and every altered gold is not, and at least one is WRONG: a verifier
that cannot tell a gold from its neighbour rewards noise. The rest is rejected by name, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from postgrad.protocols import Verifier
from postgrad.records import Problem, Status, Trace
from postgrad.verify import equal
from postgrad.verify.numeral import number
from postgrad.verify.spelling import split_unit, words


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


def keep_checkable(problems: Iterable[Problem], verifier: Verifier, complete: Callable[[str], str] = in_box) -> Checked:
    """The problems this verifier can check, and the others with the reason. `complete` words an answer."""
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
    """Answers that look like the gold and differ from it: another letter, one added, the sign turned, a digit changed,
    an element dropped, two swapped. None where the gold cannot be read."""
    letter = re.fullmatch(r"\(?([A-J])\)?", gold.strip())
    if letter:
        yield "A" if letter[1] == "J" else chr(ord(letter[1]) + 1)
        return
    try:
        yield from _altered(equal.read(gold))
    except (equal.Prose, ValueError):
        return


def _altered(tree: equal.Tree) -> Iterator[str]:
    match tree:
        case equal.Named():
            for value in _altered(tree.value):
                yield f"{tree.name} = {value}"
        case equal.Leaf():
            yield from _altered_leaf(tree.text)
        case equal.Row():
            yield from _altered_items(tree.items, tree.brackets[0], tree.brackets[1])
            first, last = _value(tree.items[0]), _value(tree.items[-1])
            if first != last:
                middle = [item.text for item in tree.items[1:-1]]
                swapped = [tree.items[-1].text, *middle, tree.items[0].text]
                yield tree.brackets[0] + ", ".join(swapped) + tree.brackets[1]
        case equal.Bag():
            braces = (r"\{", r"\}") if tree.text.startswith(r"\{") else ("", "")
            yield from _altered_items(tree.items, *braces)


def _altered_items(items: tuple[equal.Tree, ...], opening: str, closing: str) -> Iterator[str]:
    texts = [item.text for item in items]
    if len(texts) > 1:
        yield opening + ", ".join(texts[:-1]) + closing
    for first in _altered(items[0]) if items else ():
        yield opening + ", ".join([first, *texts[1:]]) + closing


def _altered_leaf(text: str) -> Iterator[str]:
    base, _ = split_unit(text)
    rest = text[len(base) :]
    plain = number(base)
    if plain is not None:
        yield f"{plain.value + 1}{rest}"
        if plain.value:
            yield f"{-plain.value}{rest}"
    elif words(base):
        yield "none of these"
    elif not equal.is_relation(base):
        yield f"{base} + 1"
    digit = re.search(r"[1-9]", base)
    if digit and (plain is None or plain.value):
        yield base[: digit.start()] + str(int(digit[0]) % 9 + 1) + base[digit.end() :] + rest


def _value(item: equal.Tree) -> Fraction | str:
    plain = number(item.text)
    return item.text if plain is None else plain.value
