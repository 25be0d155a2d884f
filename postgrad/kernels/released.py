"""CUDA-L1's released kernels: JSON lines, one row for each task, read with all their traps.

A row has level_id, task_id, ref_code, custom_code and scores. What was seen in the released files:

  - custom_code is null or the text "None" in 17 to 53 of the 250 rows, which carry scores all the same;
  - numbers may be texts, scores null or "None";
  - one kernel is no Python (an unterminated text, task 3-26);
  - the reference stands in the row, and only KernelBench v0 has the same texts (later versions changed sizes and inputs).

So a row is usable where its code parses and defines ModelNew; its scores are claims, never used to compute one.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postgrad.kernels.candidate import Candidate, fault
from postgrad.kernels.task import Task, from_text

NOTHING = (None, "None", "", " ")
SCORE = "score_default"
"""Against eager."""
PUBLISHED = {"a100": (3.12, 1.42), "3090": (2.51, 1.18), "h100": (3.85, 1.32), "h20": (2.38, 1.34), "l40": (3.13, 1.31)}
"""File -> mean and median over 250 tasks against eager, as the paper has them (arXiv 2507.14111)."""


@dataclass(frozen=True, slots=True)
class Released:
    level: int
    task: int
    reference: str
    code: str | None
    """None where the row has none."""
    fault: str | None
    """Why the code cannot be used; None where it can, or where there is none."""
    claimed: Mapping[str, float | None]
    """Scores of the row by their names there; None where the row says nothing."""
    origin: str

    @property
    def key(self) -> tuple[int, int]:
        return self.level, self.task

    @property
    def usable(self) -> bool:
        return self.code is not None and self.fault is None

    def candidate(self) -> Candidate:
        if self.code is None:
            raise ValueError(f"{self.origin}: the row has no code")
        return Candidate(self.code, "torch", self.origin)

    def as_task(self) -> Task:
        return from_text(f"{self.level}-{self.task}", self.reference, origin=self.origin)


@dataclass(frozen=True, slots=True)
class Counts:
    rows: int
    without_code: int
    unusable: int
    """Has code that is no Python, or defines no ModelNew."""
    usable: int
    claims_without_code: int
    """Rows that claim a score and have no code."""


def read(path: Path) -> Iterator[Released]:
    """Rows of a file of JSON lines, in order. Raises ValueError with file and line for one that is no such row."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _row(line, f"{path}:{number}")


def _row(line: str, origin: str) -> Released:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{origin}: not JSON: {error.msg} at column {error.colno}; wanted: one object on each line"
        ) from None
    missing = (
        [name for name in ("level_id", "task_id", "ref_code", "custom_code") if name not in row]
        if isinstance(row, dict)
        else ["an object"]
    )
    if missing:
        raise ValueError(f"{origin}: no {', '.join(missing)}; wanted: a row of CUDA-L1's optimized_cuda_code/*.json")
    level, task = _whole(row["level_id"], "level_id", origin), _whole(row["task_id"], "task_id", origin)
    code = None if row["custom_code"] in NOTHING else str(row["custom_code"])
    wrong = fault(Candidate(code, "torch", origin)) if code is not None else None
    claimed = {name: _score(value) for name, value in row.items() if name.startswith("score")}
    return Released(level, task, str(row["ref_code"]), code, wrong, claimed, origin)


def _whole(value: Any, name: str, origin: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"{origin}: {name} is {value!r}, not a whole number") from None


def _score(value: Any) -> float | None:
    if value in NOTHING or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def count(rows: Sequence[Released]) -> Counts:
    without = [row for row in rows if row.code is None]
    return Counts(
        rows=len(rows),
        without_code=len(without),
        unusable=sum(row.code is not None and not row.usable for row in rows),
        usable=sum(row.usable for row in rows),
        claims_without_code=sum(any(score is not None for score in row.claimed.values()) for row in without),
    )


def foreign_references(rows: Sequence[Released], tasks: Mapping[tuple[int, int], Path]) -> list[tuple[int, int]]:
    """Rows whose reference is not the text of a checkout's task: then it is another version, and claims do not carry over."""
    return [
        row.key
        for row in rows
        if row.key not in tasks or _same(row.reference) != _same(tasks[row.key].read_text("utf-8"))
    ]


def _same(source: str) -> str:
    """A hash that white space at the ends of lines and comments do not change."""
    try:
        told = ast.dump(ast.parse(source))
    except SyntaxError:
        told = source
    return hashlib.sha256(told.encode()).hexdigest()
