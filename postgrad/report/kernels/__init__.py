"""Records of kernels -> self-contained HTML pages: one verdict, a search, an audit, a benchmark.

    html = check_page(record, glossary)                     one signed record, with what stands beside it (entry.py)
    html = search_page(folder, glossary)                    a folder of kernels/search.py
    html = audit_page(records, scores, glossary)            many records, grouped by what was found
    html = bench_page(records, scores)                      the same, by how fast they are

This part does not know the kernels' code: it reads JSON as it lies in files. What reasons mean comes as a glossary, what many verdicts
amount to as scores, whether a record is as it was signed from a function that has the key. Codes and reasons are text of a model that may
mean harm: they reach the page as text nodes only, acting characters made visible, long ones cut with a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from postgrad.report.kernels import check, many, search
from postgrad.report.kernels.blocks import LEVELS, Page
from postgrad.report.kernels.entry import Check, Glossary, entry
from postgrad.report.kernels.scores import Scores
from postgrad.report.kernels.sources import Records, holds_records, is_search, records
from postgrad.report.kernels.sources import search as read_search
from postgrad.report.template import put, rendered, smallest
from postgrad.report.view import Limits

__all__ = [
    "Check",
    "Glossary",
    "Records",
    "Scores",
    "audit_page",
    "bench_page",
    "check_page",
    "holds_records",
    "is_search",
    "records",
    "search_page",
    "write_page",
]

Record = Mapping[str, Any]


def check_page(record: Record, glossary: Glossary, *, signed: Check | None = None, troubles: Sequence[str] = ()) -> str:
    found = entry(record, glossary, signed)
    return _page(lambda limits: check.page(found, glossary, troubles, limits))


def search_page(folder: Path, glossary: Glossary, *, signed: Check | None = None) -> str:
    """Also in the middle of a search. Raises nothing for damaged files: the page says what could not be read."""
    found = read_search(folder)
    return _page(lambda limits: search.page(found, glossary, signed, limits))


def audit_page(
    records: Sequence[Record],
    scores: Scores,
    glossary: Glossary,
    *,
    title: str = "Audit of kernels",
    signed: Check | None = None,
    troubles: Sequence[str] = (),
) -> str:
    found = [entry(one, glossary, signed) for one in records]
    return _page(lambda limits: many.audit(title, found, scores, glossary, troubles, limits))


def bench_page(
    records: Sequence[Record],
    scores: Scores,
    glossary: Glossary,
    *,
    title: str = "Benchmark of kernels",
    signed: Check | None = None,
    troubles: Sequence[str] = (),
) -> str:
    found = [entry(one, glossary, signed) for one in records]
    return _page(lambda limits: many.bench(title, found, scores, troubles, limits))


def write_page(path: Path, html: str) -> Path:
    """Beside a file, or into a folder as report.html; whole or not at all. Returns the page's path."""
    target = path / "report.html" if path.is_dir() else path.with_suffix(".html")
    return put(target, html.encode("utf-8", errors="replace"))


def _page(made: Callable[[Limits], Page]) -> str:
    def html(limits: Limits) -> str:
        page = made(limits)
        values = {name: getattr(page, name) for name in ("title", "headline", "status", "facts", "sections")}
        return rendered("kernels.html.jinja", told=page.notices, **values)

    return smallest(html, LEVELS).decode()
