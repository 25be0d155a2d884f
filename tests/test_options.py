"""A question's options are read back as they were written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgrad.options import Asked, asked, question

STEM = "A man of 40.\nA. fumigatus is found.\nWhat now?"
OPTIONS = ("wait", "two drugs:\nthis and that", "B. fragilis cover", "surgery")


def test_a_question_is_read_back_also_with_lines_and_letters_inside() -> None:
    assert asked(question(STEM, OPTIONS)) == (STEM, OPTIONS)
    assert asked("A. only one") is None
    assert asked("What now?") is None
    assert asked("Which?\nA. x\nB. y\n") == ("Which?", ("x", "y\n"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("one",), "got 1 options, wanted 2 to 10"),
        (("x",) * 11, "got 11 options"),
        (("x\nB. y", "z"), "cannot be told apart"),
    ],
)
def test_options_that_could_not_be_read_back_are_refused(options: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        question("Which?", options)


@given(stem=st.text(), options=st.lists(st.text(), max_size=12))
def test_what_is_written_is_read_back_or_refused(stem: str, options: list[str]) -> None:
    try:
        written = question(stem, options)
    except ValueError:
        return
    assert asked(written) == Asked(stem, tuple(options))
