"""What a page is made of: tables, figures and text of limited size, and how models and stages are called."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from postgrad.records import Status
from postgrad.report.folder import string
from postgrad.report.text import visible


@dataclass(frozen=True, slots=True)
class Limits:
    """How much text a page takes. `write` goes down the levels until the page is small enough."""

    problems: int
    """Problems in the side-by-side view."""
    characters: int
    """Characters of one text."""
    rows: int
    """Rows of one table."""


@dataclass(frozen=True, slots=True)
class Table:
    label: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    words: Collection[int] = ()
    """Columns, beside the first, that hold text: they stand left, numbers right."""


@dataclass(frozen=True, slots=True)
class Figure:
    key: str
    title: str
    note: str
    svg: Markup
    table: Table
    narrow: Markup | None = None
    """The same figure laid out for a telephone, where shrinking would make it unreadable."""


NAMES = {"base": "Base", "sft": "SFT", "rl": "RL"}


def name_of(model: str) -> str:
    return NAMES.get(model, visible(model, 40))


def stage_name(stage: str) -> str:
    return NAMES.get(stage) or {"eval": "Evaluation"}.get(stage) or visible(stage[:1].upper() + stage[1:], 40)


def style_of(model: str) -> str:
    return f"m-{model}" if model in NAMES else "s3"


def ordered(models: Iterable[str]) -> list[str]:
    order = list(NAMES)
    return sorted(models, key=lambda m: (order.index(m) if m in order else len(order), m))


def spaced(rows: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` rows, evenly spaced, the first and the last among them."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (limit - 1))] for i in range(limit)]


def compact(value: object, limit: int) -> str:
    """Any JSON value on one line."""
    if isinstance(value, str):
        return visible(value, limit)
    try:
        return visible(json.dumps(value, ensure_ascii=False, default=str), limit)
    except RecursionError:
        return "(nested too deeply to show)"


def status_of(row: dict[str, Any]) -> str:
    status = string(row.get("status"))
    return status if status in set(Status) else "unchecked"
