"""Speeds of right answers: numbers by hand, and what an unchecked answer must not touch."""

from __future__ import annotations

import math

import pytest

from postgrad.evals import speed
from postgrad.records import Graded, Problem, Status, Trace, Verdict


def row(name: str, *scores: float | str | None) -> list[Graded]:
    """Numbers are right answers' speed-ups, None is wrong, "?" unchecked, "-" no answer."""
    problem = Problem(name, (), None, {"family": name[0]})

    def verdict(score: float | str | None) -> Verdict:
        if score is None:
            return Verdict(Status.WRONG, 0.0)
        if isinstance(score, str):
            return Verdict({"?": Status.UNCHECKED, "-": Status.NO_ANSWER}[score], None)
        return Verdict(Status.CORRECT, score)

    return [Graded(problem, Trace(name, "", (), (), "stop"), verdict(score)) for score in scores]


ROWS = [row("a1", 2.0, 8.0), row("a2", 0.5, None), row("b1", "?", "-"), row("b2", "?", "?")]


def test_measures_by_hand() -> None:
    found = speed.measures(ROWS, resamples=100)
    assert {name: one and one.value for name, one in found.items()} == pytest.approx(
        {
            "correct": 3 / 5,
            "speedup": 2.0,  # the geometric mean of 2, 8 and 1/2
            "fast": 2 / 5,
            "kept": 16 ** (1 / 5),  # of 2, 8, 1, 1, 1
            "best": 8 ** (1 / 3),  # of 8, 1, 1: nothing is known of the last
        }
    )


def test_a_wrong_answer_is_in_no_speed_and_an_unchecked_one_in_nothing() -> None:
    fewer = [row("a1", 2.0, 8.0), row("a2", 0.5), row("b1", "-")]
    found, without = speed.measures(ROWS, resamples=100), speed.measures(fewer, resamples=100)
    assert found["speedup"] == without["speedup"]
    more = [*ROWS[:2], row("b1", "?", "?", "-"), row("b2", "?")]
    assert speed.measures(more, resamples=100) == found


def test_nothing_checked_and_nothing_right_are_none() -> None:
    assert set(speed.measures([row("a1", "?")]).values()) == {None}
    found = speed.measures([row("a1", None)], resamples=100)
    assert found["speedup"] is None
    assert found["kept"] is not None
    assert (found["kept"].value, found["correct"] and found["correct"].value) == (1.0, 0.0)


def test_a_comparison_is_paired() -> None:
    """The second problem has no right answer after: it is in no ratio of speeds, and counts in the others."""
    before = [row("a1", 2.0), row("a2", 4.0)]
    after = [row("a1", 3.0), row("a2", None)]
    found = speed.compare(before, after, resamples=100)
    assert {name: one.value for name, one in found.items()} == pytest.approx(
        {
            "correct difference": -0.5,
            "fast difference": -0.5,
            "speedup ratio": 1.5,
            "kept ratio": math.sqrt(3.0 / 8.0),
            "best ratio": math.sqrt(3.0 / 8.0),
        }
    )
    assert found["speedup ratio"].n == 1
    assert speed.compare([row("a1", None)], [row("a1", 2.0)], resamples=100).keys() == {
        "correct difference", "fast difference", "kept ratio", "best ratio",
    }  # fmt: skip


def test_by_label() -> None:
    assert speed.by_label(ROWS, "family") == {"a": (3 / 4, pytest.approx(2.0)), "b": (0.0, None)}
