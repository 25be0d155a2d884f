"""Tolerances, percentages, separators and scales, with their edges."""

from __future__ import annotations

from fractions import Fraction

import pytest

from postgrad.records import Problem, Status, Trace
from postgrad.verify.number import Within

CORRECT, WRONG, NO_ANSWER, UNCHECKED = Status.CORRECT, Status.WRONG, Status.NO_ANSWER, Status.UNCHECKED


def check(verifier: Within, gold: str | None, text: str) -> Status:
    return verifier(Problem("p", (), gold), Trace("p", text, (), (), "stop")).status


@pytest.mark.parametrize(
    ("gold", "text", "status"),
    [
        ("100", "The answer is 101", CORRECT),
        ("100", "The answer is 99", CORRECT),
        ("100", "The answer is 101.01", WRONG),
        ("100", "The answer is 98.99", WRONG),
        ("-100", "The answer is -101", CORRECT),
        ("100", "The answer is -100", WRONG),
        ("0", "The answer is 0.001", WRONG),
        ("1,234.5", r"\boxed{1234.5}", CORRECT),
        ("$3.2 million", "The answer is 3,200,000", CORRECT),
        ("3200000", r"\boxed{3.2 \text{ million}}", CORRECT),
        ("3200000", r"\boxed{3.2}", WRONG),
        ("0.12", r"\boxed{12\%}", CORRECT),
        ("12", r"\boxed{12\%}", CORRECT),
        ("12%", r"\boxed{0.12}", CORRECT),
        ("12%", r"\boxed{0.12\%}", WRONG),
        ("12%", r"\boxed{1.2}", WRONG),
        ("25", r"\boxed{5}", WRONG),
        ("5", r"\boxed{5 \text{ mg}}", CORRECT),
        ("5", r"\boxed{5 or 7}", NO_ANSWER),
        ("5", r"\boxed{NaN}", NO_ANSWER),
        ("5", r"\boxed{\infty}", NO_ANSWER),
        ("5", "I cannot say", NO_ANSWER),
        (None, r"\boxed{5}", UNCHECKED),
        ("high", r"\boxed{5}", UNCHECKED),
        ("NaN", r"\boxed{NaN}", UNCHECKED),
    ],
)
def test_within_one_per_cent(gold: str | None, text: str, status: Status) -> None:
    assert check(Within(relative=Fraction(1, 100)), gold, text) is status


def test_absolute_tolerance_is_inclusive_and_exact() -> None:
    within = Within(absolute=Fraction(1, 10))
    assert check(within, "0.3", r"\boxed{0.4}") is CORRECT
    assert check(within, "0.3", r"\boxed{0.2}") is CORRECT
    assert check(within, "0.3", r"\boxed{0.40001}") is WRONG


def test_without_a_tolerance_only_the_number_itself() -> None:
    assert check(Within(), "0.1", r"\boxed{\frac{1}{10}}") is CORRECT
    assert check(Within(), "0.1", r"\boxed{0.1000000000000000001}") is WRONG
