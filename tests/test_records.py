"""Records: what they refuse, and JSONL there and back."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgrad.records import (
    Example,
    Graded,
    Message,
    Problem,
    Status,
    Trace,
    Verdict,
    from_json,
    read_jsonl,
    to_json,
    write_jsonl,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), TEXT)).map(tuple)
LABELS = st.dictionaries(TEXT, TEXT)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PROBLEMS = st.builds(Problem, TEXT, MESSAGES, st.none() | TEXT, LABELS, st.none() | TEXT)
TRACES = st.lists(st.tuples(st.integers(0), FINITE)).flatmap(
    lambda tokens: st.builds(
        Trace,
        TEXT,
        TEXT,
        st.just(tuple(token for token, _ in tokens)),
        st.just(tuple(logprob for _, logprob in tokens)),
        st.sampled_from(["stop", "length", "error"]),
    )
)
VERDICTS = st.builds(Verdict, st.sampled_from([Status.CORRECT, Status.WRONG]), FINITE, TEXT) | st.builds(
    Verdict, st.sampled_from([Status.NO_ANSWER, Status.UNCHECKED]), st.none(), TEXT
)
EXAMPLES = st.builds(Example, MESSAGES, TEXT, FINITE, TEXT, LABELS)


@given(record=PROBLEMS | TRACES | VERDICTS | EXAMPLES | st.builds(Graded, PROBLEMS, TRACES, VERDICTS))
def test_json_reads_back_to_an_equal_record_on_one_line(record: Any) -> None:
    line = to_json(record)
    assert "\n" not in line
    assert from_json(type(record), line) == record


def test_the_worked_example() -> None:
    problem = Problem("gsm8k-0", (Message("user", "How many ...?"),), gold="72", labels={"grade": "2"})
    assert to_json(problem) == (
        '{"id": "gsm8k-0", "prompt": [{"role": "user", "content": "How many ...?"}], "gold": "72", '
        '"labels": {"grade": "2"}, "reference": null}'
    )


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_json_has_no_word_for_nan_and_invents_none(weight: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(Example((), "x", weight))


@pytest.mark.parametrize("status", [Status.CORRECT, Status.WRONG])
def test_a_checked_verdict_needs_its_score(status: Status) -> None:
    assert Verdict(status, 0.5).score == 0.5
    with pytest.raises(ValueError, match=f"a verdict {status} needs a score: None"):
        Verdict(status, None)


@pytest.mark.parametrize("status", [Status.NO_ANSWER, Status.UNCHECKED])
def test_what_was_not_compared_has_no_score(status: Status) -> None:
    assert Verdict(status, None).score is None
    with pytest.raises(ValueError, match=f"a verdict {status} cannot have a score: 0.0"):
        Verdict(status, 0.0)


def test_a_trace_has_a_log_probability_for_every_token() -> None:
    with pytest.raises(ValueError, match="trace of 'p': 1 log-probabilities for 2 tokens"):
        Trace("p", "ab", (1, 2), (-0.5,), "stop")


def test_files_read_back_in_order_and_a_failed_write_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [Example((Message("user", "ü\u2028\n"),), "a", 2.0, "1"), Example((), "b")]
    write_jsonl(path, rows)
    assert list(read_jsonl(Example, path)) == rows
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(path, [rows[1], Example((), "c", math.nan)])
    assert list(read_jsonl(Example, path)) == rows


def test_a_full_disk_is_told_of_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [Example((), "a")])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_jsonl(path, [Example((), "b")])
    assert list(read_jsonl(Example, path)) == [Example((), "a")]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"prompt": []}',
        '{"prompt": [], "response": "x", "weight": "heavy"}',
        '{"prompt": [{"role": "boss", "content": ""}], "response": ""}',
    ],
)
def test_an_unreadable_row_is_named_by_file_and_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(to_json(Example((), "good")) + "\n" + line + "\n")
    read = read_jsonl(Example, path)
    assert next(read).response == "good"
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: not a Example"):
        next(read)
