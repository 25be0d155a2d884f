"""Kernels that a run's models wrote, from summary.json's `kernels`: tables by stage, family and cost, and some codes with what they change."""

from __future__ import annotations

from dataclasses import dataclass

from postgrad.report.folder import Folder, listing, mapping, number, string
from postgrad.report.kernels.blocks import Diff
from postgrad.report.kernels.code import diff
from postgrad.report.text import visible
from postgrad.report.view import Limits, Table

TABLES = {
    "stages": ("By stage", "Held-out tasks; intervals of 95 % over tasks. What could not be checked is in no number."),
    "families": ("By family", "Share of answers that are right, and the geometric mean of their speed-ups."),
    "costs": ("What judging cost", "Answers that had their verdict already are not judged again."),
}


@dataclass(frozen=True, slots=True)
class Written:
    task: str
    speedup: str
    change: Diff


def tables(folder: Folder, limits: Limits) -> list[Table]:
    found = []
    for key, (title, note) in TABLES.items():
        given = mapping(mapping(folder.summary.get("kernels")).get(key))
        columns = [visible(string(one), 80) for one in listing(given.get("columns"))]
        rows = [[visible(string(cell), 80) for cell in listing(row)] for row in listing(given.get("rows"))]
        whole = [row for row in rows if len(row) == len(columns)]
        if columns and whole:
            found.append(Table(title, columns, whole[: limits.rows], note))
    return found


def codes(folder: Folder, limits: Limits) -> list[Written]:
    made = []
    for row in map(mapping, listing(mapping(folder.summary.get("kernels")).get("shown"))):
        speedup = number(row.get("speedup"))
        reference, code = string(row.get("reference")), string(row.get("code"))
        if speedup is not None and reference and code:
            title = visible(string(row.get("task")), 120)
            change = diff(reference, code, limits.characters, f"What it changes in the reference of {title}")
            made.append(Written(title, f"{speedup:.2f}x", change))
    return made[: limits.problems]
