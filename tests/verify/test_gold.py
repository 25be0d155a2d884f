"""What cannot be checked is named, and a verifier that accepts too much is found out."""

from __future__ import annotations

import pytest

from postgrad.records import Problem, Status, Trace, Verdict
from postgrad.verify.gold import keep_checkable, perturbed
from postgrad.verify.maths import boxed


def problem(gold: str | None) -> Problem:
    return Problem(repr(gold), (), gold)


def test_good_golds_are_kept_in_order() -> None:
    problems = [
        problem(g) for g in ("72", r"\frac{1}{2}", "(1, 2)", r"\{1, 2\}", r"\sqrt{2}", "x=4", "no solution", r"\pm 6")
    ]
    checked = keep_checkable(problems, boxed)
    assert checked.kept == tuple(problems)
    assert checked.rejected == ()


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        (None, "gold missing"),
        ("", "its own gold is unchecked: gold empty"),
        ("It has a solution for every $x$ of the set.", "its own gold is unchecked: gold is prose"),
        ("x)(", "no altered gold is told apart: gold"),
    ],
)
def test_bad_golds_are_named(gold: str | None, reason: str) -> None:
    checked = keep_checkable([problem("1"), problem(gold)], boxed)
    assert checked.kept == (problem("1"),)
    (rejected,) = checked.rejected
    assert rejected.problem == problem(gold)
    assert rejected.reason.startswith(reason)


def test_a_verifier_that_accepts_everything_keeps_nothing() -> None:
    def kind(_problem: Problem, _trace: Trace) -> Verdict:
        return Verdict(Status.CORRECT, 1.0)

    (rejected,) = keep_checkable([problem("72")], kind).rejected
    assert rejected.reason == "accepts '73' for gold '72'"


@pytest.mark.parametrize(
    ("gold", "altered"),
    [
        ("72", ["73", "-72", "82"]),
        ("0", ["1"]),
        ("J", ["A"]),
        ("(1, 2)", ["(1)", "(2, 2)", "(-1, 2)", "(2, 2)", "(2, 1)"]),
        (r"\{1, 2\}", [r"\{1\}", r"\{2, 2\}", r"\{-1, 2\}", r"\{2, 2\}"]),
        (r"\sqrt{2}", [r"\sqrt{2} + 1", r"\sqrt{3}"]),
        ("x = 4", ["x = 5", "x = -4", "x = 5"]),
        ("5 cm", ["6 cm", "-5 cm", "6 cm"]),
    ],
)
def test_perturbed(gold: str, altered: list[str]) -> None:
    assert list(perturbed(gold)) == altered
