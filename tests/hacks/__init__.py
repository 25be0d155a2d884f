"""The catalogue of reward hacks as data: 75 rows, each an exploit and an honest twin. `python -m bench.hacks` plays them all.

A row's text runs in the sandbox alone, never in the process of a test; the tests here only read it.
"""

from __future__ import annotations

import importlib
import pkgutil

from tests.hacks import rows
from tests.hacks.row import Row


def catalogue() -> list[Row]:
    """All rows, by id: timing, caching and memory, semantics, source."""
    found: list[Row] = [
        importlib.import_module(f"{rows.__name__}.{module.name}").ROW for module in pkgutil.iter_modules(rows.__path__)
    ]
    return sorted(found, key=lambda row: ("TCSF".index(row.id[0]), row.id))
