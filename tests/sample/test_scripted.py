"""The scripted sampler: what it says, in which order, and that it never invents a line."""

import itertools

import pytest

from postgrad.records import Message, Problem, Trace
from postgrad.sample.scripted import Said, Scripted

P, Q = (Problem(name, (Message("user", "?"),), "1") for name in "pq")


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_lines_come_in_turn_problem_by_problem() -> None:
    sampler = Scripted(["a", Said("bc", "length", -0.25), "", Said("d", "error")], letters)
    sampler.follow(None, 3)
    assert sampler.sample([P, Q], 2) == [
        [Trace("p", "a", (97,), (-1.0,), "stop"), Trace("p", "bc", (98, 99), (-0.25, -0.25), "length")],
        [Trace("q", "", (), (), "stop"), Trace("q", "d", (100,), (-1.0,), "error")],
    ]
    assert sampler.followed == [3]
    assert sampler.asked == [("p", 2), ("q", 2)]


def test_the_script_ends_unless_it_cycles() -> None:
    with pytest.raises(ValueError, match="no line left for problem 'q'"):
        Scripted(["a"], letters).sample([P, Q], 1)
    texts = [trace.text for trace in Scripted(itertools.cycle("xy"), letters).sample([P], 5)[0]]
    assert texts == ["x", "y", "x", "y", "x"]
