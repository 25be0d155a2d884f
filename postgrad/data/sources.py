"""Local files and folders in any known form, to records. Files: data/rows.py. Forms and their columns: data/forms.py.

    examples("sft.jsonl")        supervised rows: each with one trace
    candidates("openr1/")        problems with any number of traces, for data/select.py to choose from
    problems("rl.parquet")       problems with answers
    questions("medical.json")    problems with answers or without, where verify/gold.py is to say which can be checked

Each reads the whole source and either returns all of it or raises one DataError that tells of everything wrong: file,
row, field, what was got, what was wanted. `survey` returns both, for `postgrad data check`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from postgrad.data.fields import FieldError
from postgrad.data.forms import Parsed, parse
from postgrad.data.rows import DataError, Fault, Row, read, rows
from postgrad.data.select import Candidate
from postgrad.records import Example, Problem

__all__ = ["DataError", "Fault", "Row", "candidates", "examples", "problems", "questions", "rows", "survey"]

R = TypeVar("R", Example, Problem, Candidate)


def examples(path: str | Path) -> list[Example]:
    return _records(path, as_example)


def candidates(path: str | Path) -> list[Candidate]:
    return _records(path, as_candidate)


def problems(path: str | Path) -> list[Problem]:
    """Ids are unique: a second row with the id of another is a fault."""
    return _records(path, as_problem)


def questions(path: str | Path) -> list[Problem]:
    """Like `problems`; the gold of a row without an answer is None."""
    return _records(path, as_question)


def survey(path: str | Path) -> tuple[list[Parsed], list[Fault]]:
    """Every row that can be parsed, and everything that is wrong."""
    parsed, faults = [], []
    for item in read(path):
        if isinstance(item, Fault):
            faults.append(item)
            continue
        try:
            parsed.append(parse(item))
        except FieldError as bad:
            faults.append(_fault(item, bad))
    forms = Counter(row.form for row in parsed)
    usual = forms.most_common(1)[0][0] if forms else ""
    other = f"wanted {usual} as in {forms[usual]} other rows: keep forms in separate files"
    for row in parsed:
        if row.form != usual:
            faults.append(Fault(row.file, row.number, "columns", f"got the form {row.form}, {other}"))
    return [row for row in parsed if row.form == usual], faults


def as_example(row: Parsed) -> Example:
    """Raises FieldError where the row has not exactly one trace, or has it marked as wrong."""
    if not row.traces:
        raise FieldError("response", f"got none (form {row.form}), wanted a trace to train on")
    if len(row.traces) > 1 or row.correct == (False,):
        what = "a trace that is marked as wrong" if len(row.traces) == 1 else f"{len(row.traces)} traces"
        raise FieldError(
            "response", f"got {what}, wanted one: read with sources.candidates and choose with select.select"
        )
    return Example(row.prompt, row.traces[0], row.weight, row.id, row.labels)


def as_candidate(row: Parsed) -> Candidate:
    """Raises FieldError where the row has no trace."""
    if not row.traces:
        raise FieldError("response", f"got none (form {row.form}), wanted traces to choose from")
    problem = Problem(row.id, row.prompt, row.gold, row.labels, row.reference)
    return Candidate(problem, row.traces, row.correct, row.pass_rate, row.weight)


def as_problem(row: Parsed) -> Problem:
    """Raises FieldError where there is no answer to compare with."""
    if row.gold is None:
        raise FieldError("answer", "got none, wanted an answer: without one no trace can be checked")
    return as_question(row)


def as_question(row: Parsed) -> Problem:
    return Problem(row.id, row.prompt, row.gold, row.labels, row.reference)


def _records(path: str | Path, make: Callable[[Parsed], R]) -> list[R]:
    parsed, faults = survey(path)
    records: list[R] = []
    seen: dict[str, Parsed] = {}
    for row in parsed:
        try:
            if make in (as_problem, as_question) and (first := seen.setdefault(row.id, row)) is not row:
                raise FieldError("id", f"got {row.id!r} again, wanted unique ids: {first.file}:{first.number} has it")
            records.append(make(row))
        except FieldError as bad:
            faults.append(_fault(row, bad))
    if faults:
        raise DataError(faults)
    return records


def _fault(row: Row | Parsed, bad: FieldError) -> Fault:
    return Fault(row.file, row.number, bad.field, bad.message)
