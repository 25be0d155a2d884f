"""One letter or none: hedges, running text and formats."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from postgrad.grading import judged
from postgrad.options import LETTERS, asked, question
from postgrad.records import Graded, Message, Problem, Status, Trace
from postgrad.verify.choice import choice, chosen, consistent, content, turned
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


# ---- The order of options -------------------------------------------------------------------------------------------

STEM = "A man of 40.\nA. fumigatus is found.\nWhat now?"
OPTIONS = ("wait", "two drugs:\nthis and that", "B. fragilis cover", "surgery")


def problem(stem: str = STEM, options: tuple[str, ...] = OPTIONS, gold: str = "C") -> Problem:
    return Problem(
        "p", (Message("system", "Answer."), Message("user", question(stem, options))), gold, {"k": "v"}, "so C"
    )


def answered(given: Problem, text: str) -> Graded:
    return judged(given, Trace(given.id, text, (), (), "stop"), choice)


def test_a_turned_problem_asks_the_same_in_another_order() -> None:
    moved = turned(problem(), 1)
    assert (moved.id, moved.gold, moved.reference, moved.labels) == ("p@1", "D", None, {"k": "v"})
    assert moved.prompt[0] == problem().prompt[0]
    assert asked(moved.prompt[-1].content) == (STEM, (OPTIONS[3], *OPTIONS[:3]))


@given(
    stem=st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
    options=st.lists(st.text("abAB. 1", min_size=1), min_size=2, max_size=10, unique=True),
    data=st.data(),
)
def test_turning_keeps_what_the_answer_says(stem: str, options: list[str], data: st.DataObject) -> None:
    assume(not stem.startswith("A. "))
    at, places = data.draw(st.integers(0, len(options) - 1)), data.draw(st.integers(0, 2 * len(options)))
    given_ = problem(stem, tuple(options), LETTERS[at])
    moved = turned(given_, places)
    right = [answered(one, f"\\boxed{{{one.gold}}}") for one in (given_, moved)]
    assert all(item.verdict.status is Status.CORRECT for item in right)
    assert content(right[0].problem, right[0].trace) == content(right[1].problem, right[1].trace) == options[at]
    back = turned(moved, -places)
    assert (back.prompt, back.gold) == (given_.prompt, given_.gold)


def test_consistency_is_of_the_option_and_not_of_its_letter() -> None:
    turns = [turned(problem(), places) for places in range(4)]

    def consistency(*letters: str) -> bool | None:
        return consistent([answered(one, f"Answer: {said}") for one, said in zip(turns, letters, strict=True)])

    assert consistency("C", "D", "A", "B") is True, "the right one, wherever it stands"
    assert consistency("A", "B", "C", "D") is True, "a wrong one, wherever it stands"
    assert consistency("A", "A", "A", "A") is False, "always the first"
    assert consistency("C", "D", "A", "C") is False
    assert consistency("C", "D", "A", "?") is False, "no answer is not the same answer"
    assert consistency("E", "E", "E", "E") is False, "there is no option E"
    unknown = [answered(Problem("p", one.prompt, None), "Answer: A") for one in turns]
    assert consistent(unknown) is None


def test_what_cannot_be_turned_is_named() -> None:
    for given_ in (Problem("q", (Message("user", "1 + 1?"),), "2"), problem(gold="E"), problem(gold="wait")):
        with pytest.raises(ValueError, match=f"problem '{given_.id}': wanted a prompt that ends in lines of options"):
            turned(given_, 1)
