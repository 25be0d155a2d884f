"""One letter or none: hedges, running text and formats."""

from __future__ import annotations

import pytest

from postgrad.records import Problem, Status, Trace
from postgrad.verify.choice import choice, chosen
from postgrad.verify.gold import keep_checkable


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (C)", "C"),
        ("The answer is C, because A is wrong.", "C"),
        ("Answer: A. B cells", "A"),
        ("Answer: **D**", "D"),
        ("**Answer:** C", "C"),
        ("The correct answer is: **(B) Foo**", "B"),
        ("Therefore, the answer is option D.", "D"),
        ("A is wrong. The answer should be B.", "B"),
        (r"Final answer: $\text{B}$", "B"),
        (r"\boxed{C}", "C"),
        (r"The answer is A, no: \boxed{\text{(C) the third}}", "C"),
        ("J", "J"),
        ("(B)", "B"),
        ("C. Because of this", "C"),
        ("Long thought.\n**C. the thing**", "C"),
        ("<think>The answer is A</think>B", "B"),
        ("The answer is A. Wait. The answer is B.", "B"),
        ("The answer is A or C", None),
        ("The answer is either A or C", None),
        ("The answer is A and B", None),
        ("The answer is not A", None),
        (r"\boxed{A, B}", None),
        (r"\boxed{A} or \boxed{B}", None),
        (r"\boxed{}", None),
        (r"\boxed{K}", None),
        ("A patient with fever has influenza", None),
        ("I think A or B", None),
        ("Either (A) or (B)", None),
        ("the answer is a pity", None),
        ("", None),
    ],
)
def test_chosen(text: str, letter: str | None) -> None:
    assert chosen(text) == letter


def test_verdicts() -> None:
    def status(gold: str | None, text: str) -> Status:
        return choice(Problem("p", (), gold), Trace("p", text, (), (), "stop")).status

    assert status("C", r"\boxed{C}") is Status.CORRECT
    assert status("(C)", "The answer is C.") is Status.CORRECT
    assert status("C", "The answer is D.") is Status.WRONG
    assert status("C", "The answer is C or D.") is Status.NO_ANSWER
    assert status(None, "C") is Status.UNCHECKED
    assert status("72", "C") is Status.UNCHECKED


def test_golds_are_checkable() -> None:
    problems = [Problem(letter, (), letter) for letter in "ABCDEFGHIJ"]
    assert keep_checkable(problems, choice).kept == tuple(problems)
