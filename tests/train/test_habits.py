"""Habits of answers by hand: repeating, several answers, no reasoning, marks of steps."""

from __future__ import annotations

import pytest

from postgrad.train import habits


@pytest.mark.parametrize(
    ("pieces", "share"),
    [
        ("a b c d e", 0.0),
        ("a b a b a b a b", 4 / 6),
        ("a a a a", 1 / 2),
        ("a b", 0.0),
        ("", 0.0),
    ],
)
def test_repeated_trigrams(pieces: str, share: float) -> None:
    assert habits.repeated(pieces.split()) == pytest.approx(share)


def test_other_sizes_of_ngrams() -> None:
    assert habits.repeated([1, 1, 2, 1], 1) == 0.5
    assert habits.repeated([1, 2, 1, 2, 3], 2) == 0.25


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{3}", ["3"]),
        (r"so \boxed{\frac{1}{2}} or \boxed{ 4 }", [r"\frac{1}{2}", "4"]),
        (r"\boxed{3", ["3"]),
        ("<think>Answer: A</think>Answer: B", ["B"]),
        ("<think>x</think>\n**Final answer:** (C) Aspirin.", ["C"]),
        ("The answer is D.\nThe correct answer is: yes", ["D", "yes"]),
        (r"Answer: A \boxed{B}", ["B"]),
        ("I would answer that it depends", []),
        ("", []),
    ],
)
def test_answers_in_their_order(text: str, found: list[str]) -> None:
    assert [answer for _, answer in habits.answers(text)] == found


def test_several_answers_are_different_ones() -> None:
    assert habits.several_answers(r"\boxed{3} or \boxed{4}")
    assert not habits.several_answers(r"\boxed{3}, again \boxed{ 3 }")
    assert habits.several_answers("Answer: A\nAnswer: B. Aspirin")
    assert not habits.several_answers("Answer: B\nAnswer: B. Aspirin")


@pytest.mark.parametrize(
    ("text", "without"),
    [
        (r"\boxed{3}", True),
        (r"<think></think>\boxed{3} because 1 + 2 is 3", True),
        (r"<think>ok</think> \boxed{3}", True),
        (r"<think> (1)3+6=9\boxed{9}</think>", False),
        ("<think>Fever, stiff neck</think>Answer: C", False),
        ("Answer: C\nFever, stiff neck", True),
        ("<think></think>C", True),
        ("<think>a long thought without an end", False),
        ("", False),
    ],
)
def test_an_answer_without_reasoning(text: str, without: bool) -> None:
    assert habits.without_reasoning(text) == without


def test_marks_of_steps() -> None:
    assert habits.markers("Step 1: a\n2) b\n* c\nNext, d") == 4
    assert habits.markers("In 1. a sentence - no list; first of all") == 0


def test_the_habits_of_the_domains_own_traces() -> None:
    """The teacher's longest-winded trace says much again; it gives one answer, behind its reasoning."""
    from postgrad.domains import arithmetic

    (problem,) = arithmetic.problems("train", 1, min_steps=3, max_steps=3, seed=0)
    for trace in arithmetic.traces(problem, 5, recheck=0.8, seed=0):
        assert not habits.several_answers(trace)
        assert not habits.without_reasoning(trace)
