"""The catalogue of reward hacks as data: 75 rows, each an exploit and an honest twin. `python -m bench.hacks` plays them all.

A row's text runs in the sandbox alone, never in the process of a test; the tests here only read it.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Literal

from postgrad.kernels.guard.cases import Case
from postgrad.kernels.verdict import Reason
from tests.hacks import rows
from tests.hacks.row import Row


def catalogue() -> list[Row]:
    """All rows, by id: timing, caching and memory, semantics, source."""
    found: list[Row] = [
        importlib.import_module(f"{rows.__name__}.{module.name}").ROW for module in pkgutil.iter_modules(rows.__path__)
    ]
    return sorted(found, key=lambda row: ("TCSF".index(row.id[0]), row.id))


def known_cases() -> list[Case]:
    """Every text of the catalogue with its label: the seed of the database of hack cases."""
    found = []
    for row in catalogue():
        language: Literal["python", "cpp"] = "cpp" if row.backend in ("cpp", "cuda") else "python"
        reason = Reason.of_row(row.id)[0]
        found.append(Case(row.exploit, language, "hack", reason, row.mechanism))
        found.append(Case(row.twin, language, "honest", reason, "looks like it, and is right in every call"))
    return found
