"""Problems held out of training."""

from __future__ import annotations

import pytest

from postgrad.data.split import split
from postgrad.records import Message, Problem

PROBLEMS = [Problem(f"p{n}", (Message("user", f"{n} + 1"),), str(n + 1)) for n in range(40)]


def test_the_fraction_is_held_out_and_nothing_is_lost() -> None:
    train, held_out = split(PROBLEMS, 0.1)
    assert (len(train), len(held_out)) == (36, 4)
    assert sorted([*train, *held_out], key=lambda problem: int(problem.id[1:])) == PROBLEMS


def test_the_order_of_rows_does_not_matter_and_the_seed_does() -> None:
    assert set(_ids(split(PROBLEMS[::-1], 0.1).held_out)) == set(_ids(split(PROBLEMS, 0.1).held_out))
    assert _ids(split(PROBLEMS, 0.1, seed=1).held_out) != _ids(split(PROBLEMS, 0.1).held_out)


def test_repeats_of_a_problem_stay_on_one_side() -> None:
    again = [Problem(f"again {n}", (Message("user", f"{n}+1"),), str(n + 1)) for n in range(40)]
    train, held_out = split([*PROBLEMS, *again], 0.25)
    assert len(held_out) == 20
    assert {problem.gold for problem in train}.isdisjoint(problem.gold for problem in held_out)


def test_neither_side_is_ever_empty() -> None:
    assert [len(side) for side in split(PROBLEMS[:2], 0.99)] == [1, 1]
    assert [len(side) for side in split(PROBLEMS[:2], 0.01)] == [1, 1]


@pytest.mark.parametrize(("count", "fraction"), [(40, 0.0), (40, 1.0), (1, 0.5), (0, 0.5)])
def test_splits_that_leave_a_side_empty_are_refused(count: int, fraction: float) -> None:
    with pytest.raises(ValueError, match="wanted"):
        split(PROBLEMS[:count], fraction)


def _ids(problems: list[Problem]) -> list[str]:
    return [problem.id for problem in problems]
