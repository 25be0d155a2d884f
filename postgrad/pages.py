"""Pages about kernels: files at a path -> the page for what they are, with what other parts know about reasons, scores and signatures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from postgrad.kernels.bench import Tally, tally
from postgrad.kernels.glossary import glossary
from postgrad.kernels.score import Score, Value
from postgrad.kernels.signed import changes, run_key
from postgrad.kernels.verdict import ACCEPTED
from postgrad.records import to_json
from postgrad.report import kernels as pages
from postgrad.report.kernels import Check, Records


def is_kernels(path: Path) -> bool:
    """A search, or records of kernels: files that `kernel_page` makes a page of."""
    return pages.is_search(path) or pages.holds_records(path)


def kernel_page(path: Path, key: Path | None = None) -> Path:
    """Write the page of a search, of one verdict or of many, beside what it is about. Raises ValueError where there is none.

    `key` signed the records; without it the run's own is taken, a file `key` in the same folder. Where there is none nothing is verified.
    """
    signed = _check(path, key)
    if pages.is_search(path):
        return pages.write_page(path, pages.search_page(path, glossary(), signed=signed))
    found = _records(path)
    if len(found.records) == 1:
        html = pages.check_page(found.records[0], glossary(), signed=signed, troubles=found.troubles)
    else:
        told = tally(found.records)
        troubles = [*found.troubles, *_left_out(told)]
        title = f"Audit of {path.stem}"
        html = pages.audit_page(found.records, _scores(told), glossary(), title=title, signed=signed, troubles=troubles)
    return pages.write_page(path, html)


def bench_page(path: Path, key: Path | None = None) -> tuple[list[list[dict[str, str]]], Path]:
    """Two tables for a terminal, means and fast_p, and the page of a benchmark, which has all intervals. Raises ValueError where there is no record."""
    found = _records(path)
    told = tally(found.records)
    html = pages.bench_page(
        found.records,
        _scores(told),
        glossary(),
        title=f"Benchmark of {path.stem}",
        signed=_check(path, key),
        troubles=[*found.troubles, *_left_out(told)],
    )
    named = [
        (name if kind == "all" else f"{name}, {kind.replace('_', ' ')}", score)
        for name, kinds in told.scores.items()
        for kind, score in kinds.items()
    ]
    tables = [[row(*one) for one in named] for row in (_means, _fast)]
    return tables, pages.write_page(path, html)


def _records(path: Path) -> Records:
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; give records of kernels, or the folder of a search")
    found = pages.records(path)
    if not found.records:
        why = f" ({' '.join(found.troubles[:3])})" if found.troubles else ""
        raise ValueError(
            f"{path}: no record of a kernel in it; wanted: JSON with a 'verdict', as postgrad writes it{why}"
        )
    return found


def _check(path: Path, key: Path | None) -> Check | None:
    own = (path if path.is_dir() else path.parent) / "key"
    if key is None and not own.is_file():
        return None
    if key is not None and not key.is_file():
        raise ValueError(f"{key}: no such file; give the key of the run that signed the records")
    return partial(_changes, run_key(key or own))


def _changes(key: bytes, record: Mapping[str, Any]) -> Sequence[str]:
    return changes(record, key)


def _left_out(told: Tally) -> list[str]:
    return [f"In no score: {one}." for one in told.left_out]


def _scores(told: Tally) -> dict[str, dict[str, Any]]:
    return {
        name: {kind: json.loads(to_json(one)) for kind, one in kinds.items()} for name, kinds in told.scores.items()
    }


def _means(name: str, score: Score) -> dict[str, str]:
    accepted = f"{score.counts[ACCEPTED]} of {sum(score.counts.values())}"
    return {"against": name, "accepted": accepted, "geomean": _shown(score.geomean), "median": _shown(score.median)}


def _fast(name: str, score: Score) -> dict[str, str]:
    shares = {f"fast {p}": "-" if one is None else f"{one.value:.0%}" for p, one in score.fast.items()}
    return {"against": name, **shares}


def _shown(value: Value | None) -> str:
    """1.31x [1.22, 1.40]."""
    if value is None:
        return "-"
    return f"{value.value:.2f}x [{value.interval[0]:.2f}, {value.interval[1]:.2f}]"
