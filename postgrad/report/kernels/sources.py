"""What lies at a path: records of kernels, or a search. A damaged piece is a sentence in `troubles`, never an exception.

FILE.json        {"verdict": ...}, or a list of such          FOLDER/search.json, archive.sqlite   a search
FILE.jsonl       one on each line                             FOLDER/*.json, *.jsonl               records
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postgrad.report.folder import MAX_LINE, mapping, string

MAX_RECORDS = 20_000


@dataclass(slots=True)
class Records:
    path: Path
    records: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Search:
    """The tables of archive.sqlite as they lie there, JSON columns read."""

    path: Path
    begun: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    codes: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


def is_search(path: Path) -> bool:
    return path.is_dir() and (path / "archive.sqlite").is_file()


def holds_records(path: Path) -> bool:
    """Whether `records` would find one."""
    return next(_objects(path, []), None) is not None


def records(path: Path) -> Records:
    found = Records(path)
    for record in _objects(path, found.troubles):
        if len(found.records) == MAX_RECORDS:
            found.troubles.append(f"There are more than {MAX_RECORDS:,} records; the rest was left out.")
            break
        found.records.append(record)
    return found


def _objects(path: Path, troubles: list[str]) -> Iterator[dict[str, Any]]:
    files = [path] if path.is_file() else sorted((*path.glob("*.json"), *path.glob("*.jsonl")))
    for file in files:
        try:
            yield from (one for one in _values(file, troubles) if mapping(one.get("verdict")))
        except OSError as error:
            troubles.append(f"{file.name} could not be read: {error.strerror}.")


def _values(file: Path, troubles: list[str]) -> Iterator[dict[str, Any]]:
    if file.suffix != ".jsonl":
        yield from _parsed(file.read_bytes(), file.name, troubles)
        return
    with file.open("rb") as lines:
        for row, line in enumerate(iter(lambda: lines.readline(MAX_LINE), b""), start=1):
            if line.strip():
                yield from _parsed(line, f"{file.name}, line {row}", troubles)


def _parsed(content: bytes, name: str, troubles: list[str]) -> Iterator[dict[str, Any]]:
    try:
        value = json.loads(content.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        troubles.append(f"{name} is no JSON and was left out.")
        return
    yield from map(mapping, value if isinstance(value, list) else [value])


def search(path: Path) -> Search:
    found = Search(path)
    found.begun, found.summary = (_object(path / name, found.troubles) for name in ("search.json", "summary.json"))
    where = [string(mapping(found.begun.get("subject")).get(name)) for name in ("task", "environment")]
    try:
        # What another process writes meanwhile is seen as whole transactions.
        with closing(sqlite3.connect(f"{(path / 'archive.sqlite').absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            for table, rows in (("attempt", found.attempts), ("code", found.codes)):
                kept = "WHERE task = ? AND environment = ?" if any(where) else ""
                told = database.execute(
                    f"SELECT * FROM {table} {kept} ORDER BY step, draw, sample LIMIT {MAX_RECORDS}",
                    where if any(where) else (),
                )
                rows.extend(_row(row) for row in told)
    except sqlite3.Error as error:
        found.troubles.append(f"archive.sqlite could not be read: {error}.")
    return found


def _row(row: sqlite3.Row) -> dict[str, Any]:
    content = dict(row)
    for name in ("parents", "tags", "record"):
        if isinstance(text := content.get(name), str):
            content[name] = _json(text)
    return content


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _object(path: Path, troubles: list[str]) -> dict[str, Any]:
    try:
        return mapping(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        troubles.append(f"{path.name} could not be read: {error}.")
        return {}
