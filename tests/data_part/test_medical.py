"""Clinical rows and questions with options: each published form, samples as published, and what is said of rows that are not usable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from postgrad.data import sources
from postgrad.data.sources import DataError
from postgrad.options import asked
from postgrad.verify.choice import choice
from postgrad.verify.gold import keep_checkable

SAMPLES = Path(__file__).parents[1] / "data" / "medical"
STEM = "What now?"


def write(folder: Path, *rows: Mapping[str, Any]) -> Path:
    file = folder / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_structured_clinical_rows_are_examples_whose_prose_is_checked_by_nothing(tmp_path: Path) -> None:
    row = {"case": "A man of 40.", "reasoning": "1. It hurts.\n2. So it is gout.", "answer": "## Assessment\nGout."}
    (example,) = sources.examples(write(tmp_path, row))
    assert example.prompt[0].content == "A man of 40."
    assert example.response == "<think>\n1. It hurts.\n2. So it is gout.\n</think>\n\n## Assessment\nGout."
    with pytest.raises(DataError, match=r"a.jsonl:1: answer: got none"):
        sources.problems(tmp_path / "a.jsonl")
    assert sources.questions(tmp_path / "a.jsonl")[0].gold is None


CHOICES: dict[str, Mapping[str, Any]] = {
    "MedQA": {"options": {"A": "wait", "B": "cut"}, "answer_idx": "B", "answer": "cut"},
    "MedMCQA": {"opa": "wait", "opb": "cut", "cop": 1, "choice_type": "single"},
    "MMLU": {"choices": ["wait", "cut"], "answer": 1},
    "MMLU-Pro": {"options": ["wait", "cut"], "answer": "B", "answer_index": 1},
    "by its text": {"options": ["wait", "cut"], "answer": "Cut."},
    "a table's columns": {"options": {"A": "wait", "B": "cut", "C": None}, "answer_idx": "B"},
}


@pytest.mark.parametrize("row", CHOICES.values(), ids=CHOICES)
def test_questions_with_options(tmp_path: Path, row: Mapping[str, Any]) -> None:
    (problem,) = sources.problems(write(tmp_path, {"question": STEM, **row}))
    assert asked(problem.prompt[0].content) == (STEM, ("wait", "cut"))
    assert problem.gold == "B"


def test_medreason_has_questions_with_options_and_without_in_one_file(tmp_path: Path) -> None:
    named = {"dataset_name": "medqa", "id_in_dataset": 7, "question": STEM, "reasoning": "1. Cut."}
    rows = (
        {
            **named,
            "options": "Answer Choices:\nA. wait\nB. cut\nC. cut and wait",
            "answer": "cut. Explanation: it is ripe.",
        },
        {**named, "options": "", "answer": "It is ripe."},
    )
    first, second = sources.examples(write(tmp_path, *rows))
    assert asked(first.prompt[0].content) == (STEM, ("wait", "cut", "cut and wait"))
    assert first.response == "<think>\n1. Cut.\n</think>\n\n\\boxed{B}"
    assert first.labels == {"dataset_name": "medqa"}
    assert (second.prompt[0].content, second.response) == (STEM, "<think>\n1. Cut.\n</think>\n\nIt is ripe.")
    assert [problem.gold for problem in sources.questions(tmp_path / "a.jsonl")] == ["B", None]


def test_samples_as_published() -> None:
    medqa, mmlu = (sources.problems(SAMPLES / f"{name}.jsonl") for name in ("medqa", "mmlu"))
    pubmedqa, ultra = sources.problems(SAMPLES / "pubmedqa.jsonl"), sources.questions(SAMPLES / "ultramedical.jsonl")
    assert (len(medqa), len(mmlu), len(pubmedqa), len(ultra)) == (6, 4, 4, 4)
    for problem in (*medqa, *mmlu, *pubmedqa):
        found = asked(problem.prompt[0].content)
        assert found is not None
        assert len(found.options) == (3 if problem in pubmedqa else 4)
    assert medqa[0].id == "943"
    assert medqa[0].gold == "D"
    assert {problem.gold for problem in pubmedqa} == {"A", "B", "C"}
    assert pubmedqa[0].prompt[0].content.endswith("are they different diseases?\nA. yes\nB. no\nC. maybe")
    checked = keep_checkable(ultra, choice)
    assert [problem.gold for problem in checked.kept] == [problem.gold for problem in ultra[:3]]
    assert [rejected.problem.gold for rejected in checked.rejected] == [None]
    assert all(asked(problem.prompt[-1].content) for problem in checked.kept)


ASKED = {"question": STEM, "options": ["wait", "cut"]}
UNUSABLE: list[tuple[Mapping[str, Any], str]] = [
    ({**ASKED, "answer": "C"}, "answer: got 'C', wanted one of the letters A to B, a place from 0, or an option's text"),
    ({**ASKED, "answer": 2}, "answer: got 2, wanted one of the letters A to B"),
    ({**ASKED, "answer": True}, "answer: got True, wanted one of the letters"),
    ({**ASKED, "answer": "AB"}, "answer: got 'AB', wanted one of the letters"),
    ({"question": STEM, "options": ["cut", "cut"], "answer": "cut"}, "answer: got 'cut', which 2 options say"),
    ({"question": STEM, "options": ["cut"], "answer": 0}, "options: got 1 options, wanted 2 to 10"),
    ({"question": STEM, "options": 3, "answer": 0}, "options: got a number, wanted an object, a list or lines of options"),
    ({"question": STEM, "options": {"A": "x", "C": "y"}, "answer": "A"}, "options: got the letters A, C, wanted A, B, C and so on"),
    ({"question": STEM, "options": "wait or cut", "answer": "A"}, "options: got the letters none, wanted A, B, C"),
    ({"question": STEM, "options": ["x", 2], "answer": "A"}, "options.B: got a number, wanted text"),
    ({"question": STEM, "options": [f"{n}" for n in range(11)], "answer": "A"}, "options: got 11 options, wanted 2 to 10"),
    ({"case": "x", "reasoning": " ", "answer": "y"}, "reasoning: got empty text"),
    ({"case": 3, "reasoning": "r", "answer": "y"}, "case: got a number, wanted text"),
    ({"QUESTION": "q", "CONTEXTS": [], "final_decision": "yes"}, "CONTEXTS: got none, wanted a list of paragraphs"),
    ({"QUESTION": "q", "CONTEXTS": ["c"], "final_decision": "Yes"}, "final_decision: got 'Yes', wanted one of yes, no, maybe"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_unusable_rows_are_named(tmp_path: Path, row: Mapping[str, Any], message: str) -> None:
    file = write(tmp_path, row)
    with pytest.raises(DataError) as error:
        sources.questions(file)
    assert str(error.value).startswith(f"{file}:1: {message}")
